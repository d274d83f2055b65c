"""How well a model explains images: ELBO and importance-weighted likelihood, from a bundle's graphs and NumPy.

images -> observed x -> q(z|x) -> k latents, log q(z|x) -> log p(x|z) -> scores
"""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle.errors import BundleError, ModelFault
from model.bundle.golden import read_arrays
from model.bundle.latents import binary_draws, gaussian_kl, posterior_noise
from model.bundle.manifest import SCORES, LikelihoodSpec, Manifest, ScoredImages
from model.bundle.pixels import stack_for_network

if TYPE_CHECKING:  # a bundle has scores
    from model.bundle.runtime import Bundle

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LEAST_EFFECTIVE = 2.0
"""Below it one draw has more than half of the weight: the estimate is that of this draw."""

_AT_A_TIME = 64
"""Latents in one call of a graph."""


class Scores(NamedTuple):
    """Of N images, (N,) each, in nats."""

    elbo: Doubles
    """-(kl + distortion): in expectation at most log p(x), whatever the number of draws."""
    log_likelihood: Doubles
    """L_k of the importance-weighted bound (Burda et al. 2015, eq. 8): in expectation between ELBO and log p(x)."""
    effective_sample_size: Doubles
    """(sum w)^2 / sum w^2 of the k importance weights, between 1 and k (Kong 1992)."""
    kl: Doubles
    """KL(q(z|x) || p(z)): in closed form for a diagonal Gaussian under N(0, I), else the mean of log q - log p over the
    draws."""
    distortion: Doubles
    """-E_q[log p(x|z)], the mean over the draws."""

    @property
    def reliable(self) -> NDArray[np.bool_]:
        """Whether the effective sample size is at least `LEAST_EFFECTIVE`."""
        return self.effective_sample_size >= LEAST_EFFECTIVE


def observed(
    images: NDArray[np.float32] | NDArray[np.uint8], likelihood: LikelihoodSpec, *, seed: int, first: int = 0
) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Images (N, H, W, C), uint8 or float32 in [0, 1], as what the likelihood describes, for `to_network`.

    Where training binarized dynamically, each pixel is drawn from Bernoulli(grey value), by the seed, of which row 0
    is image ``first``; where the data were binary, what is at least a half is white: float32, 0 or 1. A picture that is
    binary already stays as it is. Where training binarized nothing, the images are given back. Grey values under such a
    Bernoulli have no likelihood (`has_likelihood`).
    """
    if likelihood.binarization == "none":
        return images
    grey = images.astype(np.float32)
    if images.dtype == np.uint8:
        grey /= np.float32(255)
    if likelihood.binarization == "dynamic":
        return binary_draws(grey, seed=seed, first=first)
    return (grey >= 0.5).astype(np.float32)


def has_likelihood(likelihood: LikelihoodSpec) -> bool:
    """False for grey values under a Bernoulli, of which -ELBO was minimized and bounds nothing."""
    return likelihood.family != "bernoulli" or likelihood.binarization != "none"


def bits_per_dim(log_likelihood: Doubles, manifest: Manifest) -> Doubles | None:
    """-log2 p(x) a number of the image, (N,); None where pixels are not discrete, or have no likelihood."""
    if manifest.likelihood.family in ("gaussian", "continuous-bernoulli") or not has_likelihood(manifest.likelihood):
        return None
    return -log_likelihood / (math.log(2) * math.prod(manifest.image.shape))


def estimate(log_likelihood: Doubles, log_prior: Doubles, log_density: Doubles, kl: Doubles | None = None) -> Scores:
    """Scores from k draws an image: log p(x|z), log p(z) and log q(z|x), all (N, K).

    Args:
        kl: (N,), where it has a closed form.

    >>> estimate(np.log([[0.5, 0.5]]), np.zeros((1, 2)), np.zeros((1, 2))).log_likelihood.round(4).tolist()
    [-0.6931]
    """
    weights = log_likelihood + log_prior - log_density
    top = weights.max(axis=1, keepdims=True)
    relative = np.exp(weights - top)
    total = relative.sum(axis=1)
    if kl is None:
        kl = (log_density - log_prior).mean(axis=1)
    distortion = -log_likelihood.mean(axis=1)
    return Scores(
        elbo=-(kl + distortion),
        log_likelihood=top[:, 0] + np.log(total / weights.shape[1]),
        effective_sample_size=total**2 / (relative**2).sum(axis=1),
        kl=kl,
        distortion=distortion,
    )


def score_images(
    bundle: "Bundle",
    images: NDArray[np.uint8],
    k: int,
    *,
    seed: int,
    first: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> Scores:
    """Score images (N, H, W, C) as `POST /score` does; ``progress`` hears of each that is done. Row 0 is image
    ``first`` of the seed.

    Raises ValueError for a bundle without a likelihood graph, ModelFault where a graph fails or gives NaN or infinity.
    """
    if bundle.manifest.graphs.likelihood is None:
        raise ValueError(f"{bundle.name}/{bundle.version} has no likelihood graph")
    parts = []
    for index in range(len(images)):
        parts.append(_score(bundle, images[index : index + 1], k, seed, first + index))
        progress(1)
    return Scores(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _score(bundle: "Bundle", image: NDArray[np.uint8], k: int, seed: int, index: int) -> Scores:
    x = stack_for_network([observed(image, bundle.manifest.likelihood, seed=seed, first=index)])
    posterior = bundle.encode(x)
    noise = posterior_noise(1, k, bundle.manifest.latent.dim, seed=seed, first=index)[0]
    densities: list[tuple[Doubles, Doubles, Doubles]] = []
    for start in range(0, k, _AT_A_TIME):
        some = noise[start : start + _AT_A_TIME]
        repeated = type(posterior)(*(np.repeat(part, len(some), axis=0) for part in posterior))
        draws = bundle.draw(repeated, some)
        found = bundle.log_likelihood(draws.latent, np.repeat(x, len(some), axis=0))
        prior = bundle.prior.log_density(draws.latent)
        densities.append((found.astype(np.float64), prior, draws.log_density.astype(np.float64)))
    log_likelihood, log_prior, log_density = (np.concatenate(part)[None] for part in zip(*densities, strict=True))
    kl = gaussian_kl(posterior.mean, posterior.log_variance) if bundle.manifest.is_product else None
    scores = estimate(log_likelihood, log_prior, log_density, kl)
    if not all(np.isfinite(part).all() for part in scores):
        raise ModelFault("a score is not finite")
    return scores


def scores_file(scores: Scores) -> bytes:
    """scores.npz: for others to be held against."""
    buffer = io.BytesIO()
    np.savez(buffer, elbo=np.sort(scores.elbo.astype(np.float32)))
    return buffer.getvalue()


def read_scores(folder: Path, spec: ScoredImages, data: bytes) -> Floats:
    """The ELBOs in scores.npz, (V,) ascending. Raises BundleError where the bytes are not what the manifest says."""
    arrays = read_arrays(folder, SCORES, data)
    elbo = arrays.get("elbo")
    if (
        arrays.keys() != {"elbo"}
        or elbo is None
        or elbo.shape != (spec.images,)
        or elbo.dtype != np.float32
        or not np.isfinite(elbo).all()
        or not (np.diff(elbo) >= 0).all()
    ):
        raise BundleError(f"{folder}/{SCORES}: does not hold one array elbo, ascending, of {spec.images} float32")
    return elbo


def percentile(elbo: Doubles, reference: Floats) -> Doubles:
    """What percentage of the reference (V,), ascending, lies below each ELBO (N,); equal ones count half.

    >>> percentile(np.array([-9.0, -2.0, 0.0]), np.array([-3, -2, -1, -0.5], np.float32)).tolist()
    [0.0, 37.5, 100.0]
    """
    below, upto = (np.searchsorted(reference, elbo, side) for side in ("left", "right"))
    return 50.0 * (below + upto) / len(reference)
