"""An open bundle: two graphs (`sessions`) behind encode() and decode().

    image (N, C, H, W) --encoder--> mean (N, D), log_variance (N, D)
    latent (N, D)      --decoder--> image (N, C, H, W)

They take any number of concurrent calls. Sampling is not in here: noise is the caller's, see `latents`.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle.errors import BundleError, ModelFault
from model.bundle.manifest import CARD, GOLDEN, MANIFEST, Compared, Manifest
from model.bundle.pixels import to_network
from model.bundle.sessions import RuntimeOptions as RuntimeOptions
from model.bundle.sessions import open_graphs
from model.bundle.tolerances import within

Floats = NDArray[np.float32]
Progress = Callable[[int], None]


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag(exp(log_variance))), both (N, D)."""

    mean: Floats
    log_variance: Floats


class Golden(NamedTuple):
    """Real images and the numbers torch gave for them; reconstruction is the decoder's answer to `mean`."""

    images: NDArray[np.uint8]  # (G, H, W, C)
    mean: Floats  # (G, D)
    log_variance: Floats  # (G, D)
    reconstruction: Floats  # (G, C, H, W)


class Bundle:
    """A VAE that is ready to run. `store.open_bundle` makes one from a folder.

    ``digest`` is the SHA-256 of the manifest, in hexadecimal. The manifest has those of all other files, so that it
    stands for every byte of the bundle.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, contents: Mapping[str, bytes], options: RuntimeOptions
    ) -> None:
        """`contents` holds the verified bytes of the files. Raises BundleError where a graph or the sample is unfit."""
        self.folder = folder
        self.manifest = manifest
        self.digest = hashlib.sha256(contents[MANIFEST]).hexdigest()
        self.golden = _read_golden(folder, manifest, contents[GOLDEN])
        try:
            self._card = contents[CARD].decode()
        except UnicodeDecodeError:
            raise BundleError(f"{folder}/{CARD}: not UTF-8") from None
        specs = (manifest.graphs.encoder, manifest.graphs.decoder)
        (self._encoder, self._decoder), self.provider = open_graphs(
            folder, [(spec, contents[spec.file]) for spec in specs], options
        )

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    def card(self) -> str:
        """The model card, Markdown."""
        return self._card

    def encode(self, images: Floats) -> Posterior:
        """q(z|x) of float32 images (N, C, H, W) in [0, 1]. Finiteness is not checked; ModelFault where it fails."""
        mean, log_variance = self._encoder.run(images)
        return Posterior(mean, log_variance)

    def decode(self, latents: Floats) -> Floats:
        """The likelihood's mean, float32 (N, C, H, W) in [0, 1], of float32 latents (N, D). Otherwise as `encode`."""
        return self._decoder.run(latents)[0]

    def encode_all(self, images: Floats, *, batch_size: int = 64, progress: Progress | None = None) -> Posterior:
        """`encode` in chunks, for offline use: ModelFault on NaN and infinity; `progress` hears each chunk's size."""
        shape = (len(images), self.manifest.latent.dim)
        out = Posterior(np.empty(shape, np.float32), np.empty(shape, np.float32))
        for rows in _chunks(len(images), batch_size):
            part = self.encode(np.ascontiguousarray(images[rows]))
            _require_finite("encoder", *part)
            out.mean[rows], out.log_variance[rows] = part
            if progress is not None:
                progress(len(part.mean))
        return out

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
        """Run both graphs once for each batch size, so that no client pays for allocation. Raises ModelFault."""
        for size in batch_sizes:
            self.encode(np.zeros((size, *self.manifest.image.shape), np.float32))
            self.decode(np.zeros((size, self.manifest.latent.dim), np.float32))

    def tune(self, most: int) -> None:
        """Have both graphs find out how many rows, up to ``most``, they take best at a time. Raises ModelFault."""
        for graph in (self._encoder, self._decoder):
            graph.tune(most)

    def self_test(self) -> None:
        """Compare both graphs with the golden sample. Raises BundleError where they differ from what torch gave."""
        golden = self.golden
        try:
            posterior = self.encode(to_network(golden.images))
            reconstruction = self.decode(golden.mean)
        except ModelFault as fault:
            raise BundleError(f"{self.folder}/{GOLDEN}: {fault} on the golden sample") from fault
        compared: tuple[tuple[Compared, str, Floats, Floats], ...] = (
            ("mean", "mean", posterior.mean, golden.mean),
            ("log_variance", "log_variance", posterior.log_variance, golden.log_variance),
            ("pixel", "reconstruction", reconstruction, golden.reconstruction),
        )
        for output, what, got, wanted in compared:
            if not within(output, got, wanted, self.manifest.precision):
                worst = float(np.max(np.abs(got.astype(np.float64) - wanted)))
                raise BundleError(f"{self.folder}/{GOLDEN}: {what} differs from the golden sample by {worst:.3g}")


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


def _read_golden(folder: Path, manifest: Manifest, data: bytes) -> Golden:
    image, dim = manifest.image, manifest.latent.dim
    expected = {
        "images": ((image.height, image.width, image.channels), np.uint8),
        "mean": ((dim,), np.float32),
        "log_variance": ((dim,), np.float32),
        "reconstruction": (image.shape, np.float32),
    }
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        arrays = {key: archive[key] for key in archive.files}
    except Exception:  # zip's decoders and a header that promises terabytes fail each in its own way
        raise BundleError(f"{folder}/{GOLDEN}: not an npz file of arrays") from None
    if arrays.keys() != expected.keys():
        raise BundleError(f"{folder}/{GOLDEN}: holds {sorted(arrays)} and not {sorted(expected)}")
    count = len(arrays["images"]) if arrays["images"].ndim else 0
    for key, (shape, dtype) in expected.items():
        if count == 0 or arrays[key].shape != (count, *shape) or arrays[key].dtype != dtype:
            raise BundleError(f"{folder}/{GOLDEN}: {key} has not the shape or type that the manifest asks for")
    return Golden(**arrays)
