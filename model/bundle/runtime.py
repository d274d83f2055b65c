"""An open bundle: its graphs (`sessions`) behind encode(), decode() and what else it is asked.

    image (N, C, H, W) --encoder--> mean (N, D), log_variance (N, D)[, parameters (N, E)]
    latent (N, D)      --decoder--> image (N, C, H, W)
    these and noise (N, D) --posterior--> latent (N, D), log_density (N,)     where q(z|x) is no diagonal Gaussian
    latent (N, D), image   --likelihood--> log_likelihood (N,)                where the bundle scores images

They take any number of concurrent calls. Sampling is not in here: noise is the caller's, see `latents`.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle.errors import BundleError, ModelFault
from model.bundle.golden import hold_against, read_golden
from model.bundle.latents import gaussian_draws
from model.bundle.manifest import CARD, GOLDEN, MANIFEST, PRIOR, SCORES, Manifest, Role
from model.bundle.prior import read_prior
from model.bundle.scores import read_scores
from model.bundle.sessions import RuntimeOptions as RuntimeOptions
from model.bundle.sessions import open_graphs

Floats = NDArray[np.float32]
Progress = Callable[[int], None]


class Posterior(NamedTuple):
    """q(z|x): the Gaussian N(mean, diag(exp(log_variance))), both (N, D), and what else tells how its draws are turned,
    (N, E); E is 0 where they are not, and q is that Gaussian."""

    mean: Floats
    log_variance: Floats
    parameters: Floats


class Draws(NamedTuple):
    """Latents (N, D) from q(z|x), with log q(z|x) (N,) in nats."""

    latent: Floats
    log_density: Floats


class Bundle:
    """A VAE that is ready to run. `store.open_bundle` makes one from a folder.

    ``digest`` is the SHA-256 of the manifest, in hexadecimal. The manifest has those of all other files, so that it
    stands for every byte of the bundle. ``prior`` is p(z). ``validation_scores`` are the ELBOs of validation images in
    ascending order, if it has any.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, contents: Mapping[str, bytes], options: RuntimeOptions
    ) -> None:
        """`contents` holds the verified bytes of the files. Raises BundleError where a graph or the sample is unfit."""
        self.folder = folder
        self.manifest = manifest
        self.digest = hashlib.sha256(contents[MANIFEST]).hexdigest()
        self.golden = read_golden(folder, manifest, contents[GOLDEN])
        self.prior = read_prior(folder, manifest.prior, manifest.latent.dim, contents.get(PRIOR))
        self.validation_scores = None
        if manifest.scores is not None:
            self.validation_scores = read_scores(folder, manifest.scores, contents[SCORES])
        try:
            self._card = contents[CARD].decode()
        except UnicodeDecodeError:
            raise BundleError(f"{folder}/{CARD}: not UTF-8") from None
        present = manifest.graphs.present()
        opened, self.provider = open_graphs(folder, [(spec, contents[spec.file]) for spec in present.values()], options)
        self._graphs = dict(zip(present, opened, strict=True))

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    def card(self) -> str:
        """The model card, Markdown."""
        return self._card

    def run(self, graph: Role, *inputs: Floats) -> list[Floats]:
        """The outputs of a graph for its inputs, as the manifest has them.

        Finiteness is not checked. Raises ModelFault where it fails, KeyError where the bundle has no such graph.
        """
        return self._graphs[graph].run(*inputs)

    def encode(self, images: Floats) -> Posterior:
        """q(z|x) of float32 images (N, C, H, W) in [0, 1]. As `run`."""
        outputs = self.run("encoder", images)
        if len(outputs) == 2:
            outputs.append(np.empty((len(images), 0), np.float32))
        return Posterior(*outputs)

    def decode(self, latents: Floats) -> Floats:
        """The likelihood's mean, float32 (N, C, H, W) in [0, 1], of float32 latents (N, D). As `run`."""
        return self.run("decoder", latents)[0]

    def draw(self, posterior: Posterior, noise: Floats) -> Draws:
        """The latents that standard normal noise (N, D) becomes under q(z|x). As `run`."""
        if self.manifest.posterior.is_diagonal:
            return Draws(*gaussian_draws(posterior.mean, posterior.log_variance, noise))
        return Draws(*self.run("posterior", *posterior, noise))

    def center(self, posterior: Posterior) -> Floats:
        """The one latent that stands for each picture, (N, D): the mean, or what a flow makes of it. As `run`."""
        if self.manifest.posterior.is_diagonal:
            return posterior.mean
        return self.draw(posterior, np.zeros_like(posterior.mean)).latent

    def log_likelihood(self, latents: Floats, images: Floats) -> Floats:
        """log p(x|z) (N,) in nats of images (N, C, H, W), which are what the likelihood describes (`scores.observed`),
        given latents (N, D). As `run`."""
        return self.run("likelihood", latents, images)[0]

    def encode_all(self, images: Floats, *, batch_size: int = 64, progress: Progress | None = None) -> Posterior:
        """`encode` in chunks, for offline use: ModelFault on NaN and infinity; `progress` hears each chunk's size."""
        parts: list[Posterior] = []
        for rows in _chunks(len(images), batch_size):
            part = self.encode(np.ascontiguousarray(images[rows]))
            _require_finite("encoder", *part)
            parts.append(part)
            if progress is not None:
                progress(len(part.mean))
        return Posterior(*map(np.concatenate, zip(*parts, strict=True))) if parts else self.encode(images)

    def decode_all(self, latents: Floats, *, batch_size: int = 64, progress: Progress | None = None) -> Floats:
        """`decode` in chunks, as `encode_all`."""
        out = np.empty((len(latents), *self.manifest.image.shape), np.float32)
        for rows in _chunks(len(latents), batch_size):
            part = self.decode(np.ascontiguousarray(latents[rows]))
            _require_finite("decoder", part)
            out[rows] = part
            if progress is not None:
                progress(len(part))
        return out

    def warm_up(self, batch_sizes: Iterable[int] = (1,)) -> None:
        """Run all graphs once for each batch size, so that no client pays for allocation. Raises ModelFault."""
        for graph in self._graphs.values():
            for size in batch_sizes:
                graph.try_out(size)

    def tune(self, most: int) -> None:
        """Have encoder and decoder find out how many rows, up to ``most``, they take best at a time. Raises ModelFault.

        The likelihood is the decoder and a sum: what it takes need not be found out again. A posterior's graph is
        small.
        """
        self._graphs["encoder"].tune(most)
        best = self._graphs["decoder"].tune(most)
        if "likelihood" in self._graphs:
            self._graphs["likelihood"].bound(best)

    def self_test(self) -> None:
        """Compare all graphs with the golden sample. Raises BundleError where they differ from what torch gave."""
        hold_against(self.golden, self.run, self.folder, self.manifest)


def finite(*arrays: Floats) -> NDArray[np.bool_]:
    """Which items are finite in every array: (N, ...), ... -> (N,).

    >>> finite(np.array([[0.0, 1.0], [np.nan, 2.0]], np.float32)).tolist()
    [True, False]
    """
    good = np.ones(len(arrays[0]), np.bool_)
    for array in arrays:
        good &= np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return good


def _require_finite(graph: str, *arrays: Floats) -> None:
    if not finite(*arrays).all():
        raise ModelFault(f"the {graph} gave NaN or infinity")


def _chunks(count: int, size: int) -> Iterable[slice]:
    if size < 1:
        raise ValueError("batch_size must be at least 1")
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
