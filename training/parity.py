"""Whether a bundle says what PyTorch says, on real images and on latents from the prior."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model.bundle.latents import posterior_noise
from model.bundle.manifest import DECODER, ENCODER, LIKELIHOOD, POSTERIOR
from model.bundle.pixels import to_network
from model.bundle.precision import LIMITS
from model.bundle.runtime import Bundle
from training.data.dataset import Dataset
from training.errors import ExportError
from training.showcase import showcase
from training.trained import TorchModel

Floats = NDArray[np.float32]

# Largest deviation from PyTorch: of pixels in [0, 1] absolute, of latents and log densities relative to
# max(1, |value|). Sums in another order differ in the sixth digit; a wrong graph in the first. The runtime's own golden
# test is ten times as tolerant, because it also runs on other hardware.
LATENT_TOLERANCE = 1e-4
PIXEL_TOLERANCE = 1e-4
# One, a few, and a number that no example or block size divides.
BATCH_SIZES = (1, 2, 7)


def check_parity(bundle: Bundle, model: TorchModel, validation: Dataset) -> float:
    """Compare a bundle with PyTorch on real images, on what they encode to, and on latents drawn from the prior.

    Returns:
        The largest deviation.

    Raises:
        ExportError: naming graph, output, batch size and the largest deviation, where it exceeds the tolerance.
        ModelFault: a graph fails.
    """
    worst = 0.0
    for size in BATCH_SIZES:
        chosen = np.resize(showcase(validation, size), size)  # a data set smaller than the batch is repeated
        images = to_network(np.asarray(validation.images[chosen]))
        for graph, output, tolerance, deviations in _deviations(bundle, model, images):
            largest = float(deviations.max())
            if not largest <= tolerance:  # so written, NaN fails
                raise ExportError(
                    f"{graph}: at batch size {size} its output {output} deviates from PyTorch by {largest:.3g}, "
                    f"and {tolerance:.3g} is allowed"
                )
            worst = max(worst, largest)
    return worst


def _deviations(bundle: Bundle, model: TorchModel, images: Floats) -> Iterator[tuple[str, str, float, Floats]]:
    """Graph, output, tolerance and deviations; each graph is given what PyTorch gives for its inputs."""
    manifest, size = bundle.manifest, len(images)
    latent, pixel = LATENT_TOLERANCE, PIXEL_TOLERANCE
    if manifest.precision is not None:
        limits = LIMITS[manifest.precision.kind]
        latent, pixel = limits["mean"].largest, limits["pixel"].largest
    wanted, found = model.encode(images), bundle.encode(images)
    for output, a, b in zip(wanted._fields, found, wanted, strict=True):
        if b.size:
            yield ENCODER, output, latent, _relative(a, b)
    center = model.center(wanted)
    if not manifest.posterior.is_diagonal:
        noise = posterior_noise(size, 1, manifest.latent.dim, seed=size)[:, 0]
        for each in (noise, np.zeros_like(noise)):
            drawn = model.draw(wanted, each)
            for output, a, b in zip(drawn._fields, bundle.draw(wanted, each), drawn, strict=True):
                yield POSTERIOR, output, LATENT_TOLERANCE, _relative(a, b)
    for latents in (center, bundle.prior.draw(size, seed=size)):
        yield DECODER, "image", pixel, np.abs(bundle.decode(latents) - model.decode(latents))
        if manifest.graphs.likelihood is not None:
            a, b = bundle.log_likelihood(latents, images), model.log_likelihood(latents, images)
            yield LIKELIHOOD, "log_likelihood", LATENT_TOLERANCE, _relative(a, b)


def _relative(found: Floats, wanted: Floats) -> Floats:
    return np.asarray(np.abs(found - wanted) / np.maximum(1, np.abs(wanted)), np.float32)
