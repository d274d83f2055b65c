"""Binary pictures from files: what is black and white already, or is made so when that is asked for.

Only then can a file be lossless. A picture that has other levels than 0 and 255, or another size than the model's, is
refused, unless it is to be made binary first; what is compressed, and comes back, is then the binary picture.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.bundle.errors import CompressedError, OfflineError, PictureError
from model.bundle.latents import binary_draws
from model.bundle.manifest import ImageSpec
from model.bundle.offline import MAX_PIXELS, count_pictures, read_sources
from model.bundle.pixels import fit_array, fit_picture, read_picture, to_unit

Bytes = NDArray[np.uint8]
Binarize = Literal["threshold", "sample"]

_ROWS = 64


def count_binary(sources: Sequence[Path]) -> int:
    """How many pictures `binary_pictures` will give. Raises OfflineError, PictureError and OSError."""
    return sum(len(_load(path)) if _is_array(path) else count_pictures([path]) for path in sources)


def binary_pictures(
    sources: Sequence[Path], spec: ImageSpec, *, binarize: Binarize | None = None, seed: int = 0
) -> Iterator[Bytes]:
    """Pictures of 0 and 255, uint8 (H, W, C), of folders, zips, files, and of .npy arrays [N, H, W] or [N, H, W, C].

    Arrays are uint8 or bool. Nothing is changed unless `binarize` says so: then pictures are fitted to the model as a
    server would, and a pixel becomes white from half of the range on ("threshold"), or with the probability that is
    its level ("sample", the dynamic binarization of training), by noise that depends on the seed and the picture's
    number. Raises PictureError, OfflineError and OSError, naming the picture.
    """
    for number, (name, picture) in enumerate(_fitted(sources, spec, refuse=binarize is None)):
        if binarize is None:
            if not ((picture == 0) | (picture == 255)).all():
                raise CompressedError(
                    f"{name}: is not black and white (levels 0 and 255), and would not come back as it is; "
                    "--binarize makes it so"
                )
            yield picture
        elif binarize == "threshold":
            yield np.where(picture > 127, np.uint8(255), np.uint8(0))
        else:
            drawn = binary_draws(to_unit(picture)[None], seed=seed, first=number)[0]
            yield np.where(drawn > 0, np.uint8(255), np.uint8(0))


def _fitted(sources: Sequence[Path], spec: ImageSpec, *, refuse: bool) -> Iterator[tuple[str, Bytes]]:
    for path in sources:
        if _is_array(path):
            yield from _rows(path, spec, refuse=refuse)
            continue
        for name, data in read_sources([path]):
            full = name if name == str(path) else f"{path.as_posix()}/{name}"
            try:
                picture = fit_picture(read_picture(data, max_pixels=MAX_PIXELS), spec, refuse=refuse)
            except PictureError as error:
                raise type(error)(f"{full}: {error}") from error
            yield full, picture


def _rows(path: Path, spec: ImageSpec, *, refuse: bool) -> Iterator[tuple[str, Bytes]]:
    array = _load(path)
    for start in range(0, len(array), _ROWS):
        piece = np.asarray(array[start : start + _ROWS])
        try:
            fitted = fit_array(
                piece.astype(np.uint8) * np.uint8(255) if piece.dtype == np.bool_ else piece, spec, refuse=refuse
            )
        except PictureError as error:
            raise type(error)(f"{path}: {error}") from error
        if fitted.dtype != np.uint8:
            raise CompressedError(f"{path}: holds {array.dtype} and not the uint8 levels 0 to 255, or bool")
        for row, picture in enumerate(fitted, start):
            yield f"{path}, picture {row}", picture.astype(np.uint8, copy=False)


def _is_array(path: Path) -> bool:
    return path.suffix.lower() == ".npy"


def _load(path: Path) -> NDArray[np.generic]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise OfflineError(f"{path}: not a .npy file of numbers") from None
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise OfflineError(f"{path}: not a .npy file of pictures")
    return array
