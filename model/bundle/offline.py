"""A bundle without a server: pictures in files become latents in a file, latents become pictures in files.

Pictures are read, run and written piece by piece, so that only latents are ever held whole. An output is there whole or
not at all.
"""

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.bundle.drawing import animate, encode_picture, tile
from model.bundle.errors import OfflineError, OutputError, PictureError
from model.bundle.files import sync, write_bytes_atomically
from model.bundle.folders import SUFFIXES, iterate_pictures, picture_names
from model.bundle.manifest import ImageSpec
from model.bundle.pixels import fit_picture, from_network, read_picture, to_network, to_uint8
from model.bundle.runtime import Bundle
from model.bundle.store import staging_folder

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Progress = Callable[[int], None]

MAX_PIXELS = 89_000_000  # of one picture: more than a server takes, since these are the user's own; Pillow warns above
MAX_TOGETHER = 1024  # pictures in one grid or animation
OUTPUTS = "a folder, or a .png (grid), .gif or .webp (animation) or .npy (array) file"

_BATCH = 64
_ANIMATIONS = (".gif", ".webp")


class Encoding(NamedTuple):
    """q(z|x) of each picture, in the order of the names."""

    mean: Floats  # (N, D)
    log_variance: Floats  # (N, D)
    latent: Floats  # (N, D): what stands for it; the mean, or what a flow makes of it
    names: tuple[str, ...]  # N


def count_pictures(sources: Sequence[Path]) -> int:
    """How many pictures `read_sources` will give. Raises OfflineError for a folder or zip that holds none."""
    total = 0
    for path in sources:
        count = len(picture_names(path)) if _holds_many(path) else 1
        if count == 0:
            raise OfflineError(f"{path}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
        total += count
    return total


def read_sources(sources: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the pictures in folders, zips and files. In a single folder or zip, names are relative to it.

    Raises PictureError as `iterate_pictures` does, and OSError.
    """
    for path in sources:
        if not _holds_many(path):
            yield str(path), path.read_bytes()
            continue
        for name, data in iterate_pictures(path):
            yield (name if len(sources) == 1 else f"{path.as_posix()}/{name}"), data


def fitted_pictures(
    spec: ImageSpec,
    pictures: Iterator[tuple[str, bytes]],
    *,
    progress: Progress | None = None,
    skip: Callable[[PictureError], None] | None = None,
) -> Iterator[tuple[list[str], Bytes]]:
    """Names and images uint8 (N, H, W, C), fitted to the model as a server would, some dozens at a time, N at least 1.

    Raises PictureError with the name of a picture that cannot be read, or tells `skip` and leaves it out.
    """

    def fit(item: tuple[str, bytes]) -> Bytes | PictureError:
        name, data = item
        try:
            return fit_picture(read_picture(data, max_pixels=MAX_PIXELS), spec)
        except PictureError as error:
            return type(error)(f"{name}: {error}")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as executor:
        while chunk := list(islice(pictures, _BATCH)):
            names: list[str] = []
            images: list[Bytes] = []
            for (name, _), fitted in zip(chunk, executor.map(fit, chunk), strict=True):
                if not isinstance(fitted, PictureError):
                    images.append(fitted)
                    names.append(name)
                elif skip is None:
                    raise fitted
                else:
                    skip(fitted)
            if images:
                yield names, np.stack(images)
            if progress is not None:
                progress(len(chunk))


def encode_pictures(
    bundle: Bundle,
    pictures: Iterator[tuple[str, bytes]],
    *,
    progress: Progress | None = None,
    skip: Callable[[PictureError], None] | None = None,
) -> Encoding:
    """The posterior of every picture. Raises PictureError as `fitted_pictures` does, and ModelFault."""
    nothing = np.empty((0, bundle.manifest.latent.dim), np.float32)
    means, log_variances, latents, names = [nothing], [nothing], [nothing], list[str]()
    for some, images in fitted_pictures(bundle.manifest.image, pictures, progress=progress, skip=skip):
        posterior = bundle.encode_all(to_network(images), batch_size=_BATCH)
        means.append(posterior.mean)
        log_variances.append(posterior.log_variance)
        latents.append(bundle.center(posterior))
        names += some
    return Encoding(np.concatenate(means), np.concatenate(log_variances), np.concatenate(latents), tuple(names))


def check_encoding(path: Path) -> None:
    """Refuse a file that `save_encoding` could not write, before any work is done. Raises OutputError."""
    if path.suffix.lower() != ".npz":
        raise OutputError(f"{path}: write to an .npz file")
    check_file(path)


def check_file(path: Path) -> None:
    """Refuse what is a folder or lies in none, before any work is done. Raises OutputError."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder")


def save_encoding(path: Path, encoding: Encoding) -> None:
    """An .npz file with the arrays `mean`, `log_variance`, `latent` (N, D) and `names` (N). Raises OfflineError for
    N = 0."""
    if not encoding.names:
        raise OfflineError("there are no pictures to encode")
    buffer = io.BytesIO()
    np.savez(
        buffer,
        mean=encoding.mean,
        log_variance=encoding.log_variance,
        latent=encoding.latent,
        names=np.array(encoding.names, dtype=np.str_),
    )
    write_bytes_atomically(path, buffer.getvalue())


def load_latents(path: Path, dim: int) -> Floats:
    """Latents (N, D) of a .npy file, or of `latent` or `mean` in an .npz file. Raises OfflineError, and OSError."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                latents = loaded
            elif "latent" in loaded.files:
                latents = loaded["latent"]
            elif "mean" in loaded.files:
                latents = loaded["mean"]
            else:
                raise OfflineError(f"{path}: has no array named latent or mean")
    except OfflineError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise OfflineError(f"{path}: not a .npy or .npz file of numbers") from None
    if latents.dtype.kind not in "fiu" or latents.ndim != 2 or latents.shape[1] != dim or len(latents) == 0:
        raise OfflineError(
            f"{path}: holds {latents.dtype} {list(latents.shape)} and not the numbers [N, {dim}] that the model takes"
        )
    with np.errstate(over="ignore"):
        numbers = latents.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise OfflineError(f"{path}: holds NaN or infinity")
    return numbers


def check_output(output: Path, count: int) -> None:
    """Refuse an output that could not be written, before any work is done. Raises OutputError."""
    suffix = output.suffix.lower()
    if not suffix:
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise OutputError(f"{output}: exists already, and is not an empty folder")
        return
    if suffix not in (".png", ".npy", *_ANIMATIONS):
        raise OutputError(f"{output}: write to {OUTPUTS}")
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent}: there is no such folder")
    if suffix != ".npy" and count > MAX_TOGETHER:
        raise OutputError(f"{output}: holds at most {MAX_TOGETHER} pictures, and these are {count}; name a folder")


def decode_to(
    bundle: Bundle,
    latents: Floats,
    output: Path,
    *,
    columns: int | None = None,
    milliseconds: int = 100,
    progress: Progress | None = None,
) -> None:
    """The pictures of latents (N, D), N >= 1, as `OUTPUTS` says. An array is uint8 (N, H, W, C).

    Raises OfflineError, ModelFault and OSError; nothing is then left behind.
    """
    write_pictures(
        output,
        _pictures(bundle, latents, progress),
        len(latents),
        bundle.manifest.image,
        columns=columns,
        milliseconds=milliseconds,
    )


def write_pictures(
    output: Path,
    pieces: Iterator[Bytes],
    count: int,
    spec: ImageSpec,
    *,
    columns: int | None = None,
    milliseconds: int = 100,
) -> None:
    """Pictures, uint8 (N, H, W, C) a piece and `count` >= 1 in all, as `OUTPUTS` says. Raises as `decode_to`."""
    check_output(output, count)
    suffix = output.suffix.lower()
    if not suffix:
        _write_folder(output, pieces, count)
    elif suffix == ".npy":
        _write_array(output, pieces, (count, spec.height, spec.width, spec.channels))
    else:
        images = np.concatenate(list(pieces))
        if suffix == ".png":
            write_bytes_atomically(output, encode_picture(tile(images, columns)))
        else:
            moving = animate(images, "gif" if suffix == ".gif" else "webp", milliseconds=milliseconds)
            write_bytes_atomically(output, moving)


def _holds_many(path: Path) -> bool:
    return path.is_dir() or zipfile.is_zipfile(path)


def _pictures(bundle: Bundle, latents: Floats, progress: Progress | None) -> Iterator[Bytes]:
    for start in range(0, len(latents), _BATCH):
        yield to_uint8(from_network(bundle.decode_all(latents[start : start + _BATCH], progress=progress)))


def _write_folder(folder: Path, pieces: Iterator[Bytes], count: int) -> None:
    digits = max(5, len(str(count - 1)))
    with staging_folder(folder) as staging:
        number = 0
        for piece in pieces:
            for image in piece:
                (staging / f"{number:0{digits}}.png").write_bytes(encode_picture(image))
                number += 1
        staging.replace(folder)  # replaces an empty folder, and nothing else


def _write_array(path: Path, pieces: Iterator[Bytes], shape: tuple[int, ...]) -> None:
    with staging_folder(path) as staging:
        part = staging / path.name
        with part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for piece in pieces:
                file.write(piece.tobytes())
        sync(part)
        part.replace(path)
    sync(path.parent)
