"""What a model makes of images and of latents, as panels: reconstructions, samples, traversals, interpolations."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.bundle.errors import ModelFault
from model.bundle.latents import gaussian_kl, interpolate, traverse
from model.bundle.pixels import from_network, to_network, to_uint8
from model.bundle.prior import Prior, StandardNormal
from model.bundle.runtime import Posterior
from training.figures.page import Panel, columns_of

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

SEED = 0
# A traversal goes this many standard deviations of the prior to either side of its mean.
REACH = 3.0
_BATCH = 100


class Model(Protocol):
    """A bundle, or a model in PyTorch."""

    def encode(self, images: Floats) -> Posterior: ...

    def center(self, posterior: Posterior) -> Floats: ...

    def decode(self, latents: Floats) -> Floats: ...


def encode_images(model: Model, images: Bytes) -> Posterior:
    """The posteriors of uint8 images ``(N, H, W, C)``, a batch at a time; for the mean the latent that stands for an
    image, which it is unless a flow turns it."""
    batches = (to_network(np.asarray(images[start : start + _BATCH])) for start in range(0, len(images), _BATCH))
    parts = [posterior._replace(mean=model.center(posterior)) for posterior in map(model.encode, batches)]
    return Posterior(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def kl_of_dimensions(posterior: Posterior) -> NDArray[np.float64]:
    """KL(q(z|x) || p(z)) of each latent dimension ``(D,)``, nats, mean over images: how much it says of an image."""
    terms = gaussian_kl(posterior.mean.reshape(-1, 1), posterior.log_variance.reshape(-1, 1))
    kl: NDArray[np.float64] = terms.reshape(posterior.mean.shape).mean(axis=0)
    return kl


def reconstructions(model: Model, images: Bytes, *, rows: int = 2) -> Panel:
    """Originals, and below each what the decoder makes of its posterior mean; up to ``rows`` such pairs of rows."""
    columns = min(columns_of(images.shape[2]), len(images))
    rows = min(rows, len(images) // columns)
    shown = images[: rows * columns]
    decoded = decode_latents(model, encode_images(model, shown).mean)
    grid = (rows, 1, columns, *shown.shape[1:])
    pairs = np.concatenate([shown.reshape(grid), decoded.reshape(grid)], axis=1)
    return Panel(
        "originals, and their reconstructions below",
        pairs.reshape(2 * rows, columns, *shown.shape[1:]),
        row_labels=("original", "reconstruction") * rows,
    )


def samples(model: Model, prior: Prior, width: int, *, rows: int = 6) -> Panel:
    """Mean images of latents from the prior."""
    columns = columns_of(width)
    decoded = decode_latents(model, prior.draw(rows * columns, seed=SEED))
    name = "N(0, I)" if isinstance(prior, StandardNormal) else "the prior"
    return Panel(f"samples: images of latents drawn from {name}", decoded.reshape(rows, columns, *decoded.shape[1:]))


def interpolations(model: Model, images: Bytes, *, rows: int = 5) -> Panel:
    """From the first image to the second, from the third to the fourth ...: slerp between their posterior means."""
    columns = columns_of(images.shape[2])
    images = images if len(images) > 1 else images.repeat(2, axis=0)
    rows = min(rows, len(images) // 2)
    means = encode_images(model, images[: 2 * rows]).mean
    frames = [decode_latents(model, interpolate(means[2 * row : 2 * row + 2], columns)) for row in range(rows)]
    title = "interpolations between the latents of two images" if rows > 1 else "interpolation between two images"
    return Panel(title, np.stack(frames))


class Importance(NamedTuple):
    """How much each latent dimension says of an image, ``(D,)``; by which measure, and in which unit."""

    values: NDArray[np.float64]
    measure: str
    unit: str


def kl_importance(kl: NDArray[np.float64]) -> Importance:
    """By the divergence of each dimension."""
    return Importance(kl, "KL", " nats")


def spread_importance(posterior: Posterior) -> Importance:
    """By the variance over images of what stands for them, where the divergence is no sum over dimensions."""
    return Importance(posterior.mean.astype(np.float64).var(axis=0), "variance over images", "")


def traversals(model: Model, prior: Prior, image: Bytes, importance: Importance, *, rows: int = 10) -> Panel:
    """One image ``(H, W, C)`` with one latent dimension at a time changed: the most important ones, through what the
    prior has of each."""
    columns = columns_of(image.shape[1]) - 1 | 1  # odd, so that 0 is among them
    start = encode_images(model, image[None]).mean[0]
    order = np.argsort(-importance.values, kind="stable")[:rows]
    low, high = (prior.mean + reach * prior.standard_deviation for reach in (-REACH, REACH))
    frames = [
        decode_latents(model, traverse(start, index, low[index], high[index], columns)) for index in order.tolist()
    ]
    values = np.linspace(-REACH, REACH, columns)
    unit = "" if isinstance(prior, StandardNormal) else ", by standard deviations of the prior"
    return Panel(
        f"traversals: one image, one latent dimension changed{unit} ({importance.measure} on the left)",
        np.stack(frames),
        row_labels=tuple(f"z{index}  {importance.values[index]:.2f}{importance.unit}" for index in order),
        column_labels=tuple(f"{value:.3g}".replace("-", "−") for value in values),
    )


def decode_latents(model: Model, latents: Floats) -> Bytes:
    """Mean images ``(N, H, W, C)`` of latents ``(N, D)``, a batch at a time.

    Raises:
        ModelFault: the model gives NaN or infinity.
    """
    decoded = [model.decode(latents[start : start + _BATCH]) for start in range(0, len(latents), _BATCH)]
    images = np.concatenate(decoded)
    if not np.isfinite(images).all():
        raise ModelFault("the decoder gave NaN or infinity")
    return to_uint8(from_network(images))
