"""From float32 graphs to a bundle's graphs in less, with all that was measured of them.

Both graphs are always lowered. Which of the two gains by it depends on the machine, and a bundle that depended on the
machine that exported it could not be made again on another: the timings of each graph are told instead.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle.latents import posterior_samples, prior_latents
from model.bundle.manifest import DECODER, ENCODER, Manifest
from model.bundle.measurements import Protocol
from model.bundle.pixels import to_network
from model.bundle.precision import Calibration, Lower, Precision
from model.bundle.runtime import Bundle, RuntimeOptions
from training.data.dataset import Dataset
from training.data.splits import choose
from training.errors import ExportError
from training.precision import measurement
from training.precision.graphs import float16_graph, int8_graph
from training.provenance import git_commit, library_versions
from training.trained import TorchModel

CALIBRATION_IMAGES = 256
# With one thread the ratio is that of the arithmetic, whatever else the machine is doing.
_OPTIONS = RuntimeOptions(threads=1)
_BINARIZATION_STREAM = 4

Floats = NDArray[np.float32]


class Lowered(NamedTuple):
    """The graphs of a bundle, and what they cost."""

    encoder: bytes
    decoder: bytes
    precision: Precision


def lower(
    kind: Lower,
    model: TorchModel,
    contents: Mapping[str, bytes],
    manifest: Manifest,
    training: Dataset,
    validation: Dataset,
    *,
    also: NDArray[np.int64],
    seed: int,
    step: int,
) -> Lowered:
    """Make graphs in ``kind`` of the float32 graphs of a bundle, and measure them.

    Args:
        contents: the files of the float32 bundle by their names.
        training: where calibration images are drawn from, by the seed.
        validation: of which up to ``measurement.VALIDATION_IMAGES`` are measured, drawn by the seed.
        also: the validation images of the golden sample, by which the bundle will be held to what is recorded.
        step: of the weights.

    Raises:
        ExportError: the graphs cannot be made, are further from PyTorch than their kind may be, or there is only one
            validation image; or the prior is not N(0, I), which all that is measured here takes for granted.
        BundleError, ModelFault: a graph cannot be opened, or fails.
    """
    if manifest.prior.family != "standard-normal":
        raise ExportError(f"{kind} is measured under a standard normal prior, and this one is {manifest.prior.family}")
    encoder, decoder, calibration = contents[ENCODER], contents[DECODER], None
    if kind == "float16":
        encoder = float16_graph(encoder, manifest.graphs.encoder)
        decoder = float16_graph(decoder, manifest.graphs.decoder)
    else:
        chosen = np.asarray(training.images[choose(len(training), CALIBRATION_IMAGES, seed)])
        calibration = Calibration(images=len(chosen), seed=seed)
        images, latents = calibration_inputs(model, chosen, manifest.likelihood.binarization == "dynamic", seed)
        encoder = int8_graph(encoder, manifest.graphs.encoder, images)
        decoder = int8_graph(decoder, manifest.graphs.decoder, latents)
    here = Path(manifest.name)  # only to name it in an error
    float32 = Bundle(here, manifest, contents, _OPTIONS)
    reduced = Bundle(here, manifest, {**contents, ENCODER: encoder, DECODER: decoder}, _OPTIONS)
    rows = choose(len(validation), measurement.VALIDATION_IMAGES, seed)
    pictures, compared = (np.asarray(validation.images[each]) for each in (rows, np.union1d(rows, also)))
    parity = measurement.parity(reduced, model, compared, kind=kind, dim=manifest.latent.dim, seed=seed)
    precision = Precision(
        kind=kind,
        parity=parity,
        negative_elbo_difference=measurement.difference(reduced, float32, pictures, manifest.likelihood, seed=seed),
        protocol=Protocol(
            dataset=validation.name,
            split="validation",
            images=len(pictures),
            binarization=manifest.likelihood.binarization,
            seed=seed,
            step=step,
            git_commit=git_commit(),
            libraries=library_versions(),
        ),
        calibration=calibration,
        speed=measurement.speed(reduced, float32, pictures, seed=seed, threads=_OPTIONS.threads),
    )
    return Lowered(encoder, decoder, precision)


def calibration_inputs(
    model: TorchModel, pictures: NDArray[np.uint8], dynamic: bool, seed: int
) -> tuple[Floats, Floats]:
    """What the encoder and the decoder are calibrated on, given training pictures ``(N, H, W, C)``.

    The encoder: the pictures, as a client sends them, and where binarization is dynamic also binarized, as training
    did: ``(N or 2 N, C, H, W)``. The decoder: what these become, means and one draw each, and as many draws from the
    prior: ``(3 N or 6 N, D)``.
    """
    images = to_network(pictures)
    if dynamic:
        uniform = np.random.Generator(np.random.Philox(key=np.array([seed, _BINARIZATION_STREAM], np.uint64)))
        images = np.concatenate([images, (uniform.random(images.shape) < images).astype(np.float32)])
    posterior = model.encode(images)
    draws = posterior_samples(posterior.mean, posterior.log_variance, 1, seed=seed)[:, 0]
    prior = prior_latents(len(images), posterior.mean.shape[1], seed=seed)
    return images, np.concatenate([posterior.mean, draws, prior])
