"""golden.npz: a few real images with the numbers that torch gave for them, and whether open graphs give them too.

    images -> mean, log_variance, parameters -- with noise --> latent, log_density;  latent -> reconstruction
                                                               latent, images -> log_likelihood

Each graph is given what torch gave for its inputs, so that it answers for itself.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.bundle.errors import BundleError, ModelFault
from model.bundle.manifest import GOLDEN, Manifest, Role
from model.bundle.pixels import to_network
from model.bundle.precision import Compared
from model.bundle.tolerances import within

Floats = NDArray[np.float32]


class Golden(NamedTuple):
    """G real images and the numbers for them. What a bundle has no graph for is None."""

    images: NDArray[np.uint8]  # (G, H, W, C)
    mean: Floats  # (G, D)
    log_variance: Floats  # (G, D)
    reconstruction: Floats  # (G, C, H, W): of `latent`, and of the mean where there is none
    parameters: Floats | None = None  # (G, E)
    noise: Floats | None = None  # (G, D)
    latent: Floats | None = None  # (G, D)
    log_density: Floats | None = None  # (G,)
    log_likelihood: Floats | None = None  # (G,): of the images, given what was decoded

    @property
    def decoded(self) -> Floats:
        """The latents that reconstruction is of, (G, D)."""
        return self.mean if self.latent is None else self.latent


class Runs(Protocol):
    """Runs the graphs by their role."""

    def __call__(self, graph: Role, *inputs: Floats) -> list[Floats]: ...


def layout(manifest: Manifest) -> dict[str, tuple[tuple[int, ...], type]]:
    """The arrays of a bundle's golden.npz: shape of an image's part, and type."""
    image, dim = manifest.image, manifest.latent.dim
    arrays: dict[str, tuple[tuple[int, ...], type]] = {
        "images": ((image.height, image.width, image.channels), np.uint8),
        "mean": ((dim,), np.float32),
        "log_variance": ((dim,), np.float32),
        "reconstruction": (image.shape, np.float32),
    }
    if manifest.graphs.posterior is not None:
        arrays["parameters"] = ((manifest.posterior.parameters,), np.float32)
        arrays |= {"noise": ((dim,), np.float32), "latent": ((dim,), np.float32), "log_density": ((), np.float32)}
    if manifest.graphs.likelihood is not None:
        arrays["log_likelihood"] = ((), np.float32)
    return arrays


def read_golden(folder: Path, manifest: Manifest, data: bytes) -> Golden:
    """The sample in these bytes. Raises BundleError where it is not what the manifest asks for."""
    expected = layout(manifest)
    arrays = read_arrays(folder, GOLDEN, data)
    if arrays.keys() != expected.keys():
        raise BundleError(f"{folder}/{GOLDEN}: holds {sorted(arrays)} and not {sorted(expected)}")
    count = len(arrays["images"]) if arrays["images"].ndim else 0
    for key, (shape, dtype) in expected.items():
        if count == 0 or arrays[key].shape != (count, *shape) or arrays[key].dtype != dtype:
            raise BundleError(f"{folder}/{GOLDEN}: {key} has not the shape or type that the manifest asks for")
    return Golden(**arrays)


def read_arrays(folder: Path, name: str, data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file of a bundle. Raises BundleError where the bytes are none."""
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        return {key: archive[key] for key in archive.files}
    except Exception:  # zip's decoders and a header that promises terabytes fail each in its own way
        raise BundleError(f"{folder}/{name}: not an npz file of arrays") from None


def hold_against(golden: Golden, run: Runs, folder: Path, manifest: Manifest) -> None:
    """Raises BundleError where a graph differs from what torch gave."""
    try:
        for output, what, got, wanted in _compared(golden, run):
            if not within(output, got, wanted, manifest.precision):
                worst = float(np.max(np.abs(got.astype(np.float64) - wanted)))
                raise BundleError(f"{folder}/{GOLDEN}: {what} differs from the golden sample by {worst:.3g}")
    except ModelFault as fault:
        raise BundleError(f"{folder}/{GOLDEN}: {fault} on the golden sample") from fault


def _compared(golden: Golden, run: Runs) -> Iterator[tuple[Compared | Literal["nats"], str, Floats, Floats]]:
    images = to_network(golden.images)
    mean, log_variance, *parameters = run("encoder", images)
    yield "mean", "mean", mean, golden.mean
    yield "log_variance", "log_variance", log_variance, golden.log_variance
    if golden.parameters is not None and golden.noise is not None:
        assert golden.latent is not None  # noqa: S101 (the layout has all or none)
        assert golden.log_density is not None  # noqa: S101
        yield "mean", "parameters", parameters[0], golden.parameters
        inputs = golden.mean, golden.log_variance, golden.parameters, golden.noise
        latent, log_density = run("posterior", *inputs)
        yield "nats", "latent", latent, golden.latent
        yield "nats", "log_density", log_density, golden.log_density
    yield "pixel", "reconstruction", run("decoder", golden.decoded)[0], golden.reconstruction
    if golden.log_likelihood is not None:
        (found,) = run("likelihood", golden.decoded, images)
        yield "nats", "log_likelihood", found, golden.log_likelihood
