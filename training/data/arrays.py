"""Images in a .npy file (memory-mapped) or in the arrays of a .npz file; nothing pickled is ever loaded.

A .npz file names its arrays; of each cell at most one name may be there::

    pool         images                         labels, optional
    training     images, train, x_train         labels, train_labels, y_train
    validation   valid, validation, x_valid     valid_labels, validation_labels, y_valid
    test         test, x_test                   test_labels, y_test

Images are ``(N, H, W)``, ``(N, H, W, C)``, or flat ``(N, H*W*C)`` where that is the model's size: uint8 0..255, or
floats in [0, 1], which are rounded to these 256 levels. Arrays of {0, 1} as uint8 or bool are binary images for a
configuration that says so, and refused otherwise: taken for grey levels they would be all but black.
"""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.pools import ArrayPool, Workspace
from training.errors import DataError

Array = NDArray[np.generic]

IMAGE_KEYS = {
    "training": ("images", "train", "x_train"),
    "validation": ("valid", "validation", "x_valid"),
    "test": ("test", "x_test"),
}
LABEL_KEYS = {
    "training": ("labels", "train_labels", "y_train"),
    "validation": ("valid_labels", "validation_labels", "y_valid"),
    "test": ("test_labels", "y_test"),
}

_ROWS = 4096
_PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class ArrayPools:
    """How to open each pool; None where the file has no such split."""

    training: Callable[[], ArrayPool]
    validation: Callable[[], ArrayPool] | None
    test: Callable[[], ArrayPool] | None


def array_pools(path: Path, test_path: Path | None, workspace: Workspace, *, static: bool) -> ArrayPools:
    """The pools of ``path``, and of ``test_path`` where there is one; images are loaded when a pool is opened.

    Args:
        path: a .npy or .npz file.
        test_path: another one, all of which is for testing; of a .npz its test images, or its only ones.
        workspace: the model's image spec and the cache.
        static: whether the configuration says that the images are binary already.

    Raises:
        DataError: a file cannot be read, is neither, or lacks the arrays.
    """
    names = _names(path)
    training = _only(path, names, IMAGE_KEYS["training"])
    if training is None:
        keys = " or ".join(IMAGE_KEYS["training"])
        raise DataError(
            f"{path}: no training images: name the array {keys} (found {', '.join(sorted(names)) or 'none'})"
        )
    validation = _only(path, names, IMAGE_KEYS["validation"])
    if test_path is not None:
        return ArrayPools(
            lambda: _pool(path, "training", workspace, static),
            None if validation is None else lambda: _pool(path, "validation", workspace, static),
            lambda: _pool(test_path, _test_kind(test_path), workspace, static),
        )
    test = _only(path, names, IMAGE_KEYS["test"])
    return ArrayPools(
        lambda: _pool(path, "training", workspace, static),
        None if validation is None else lambda: _pool(path, "validation", workspace, static),
        None if test is None else lambda: _pool(path, "test", workspace, static),
    )


def listing(path: Path, test_path: Path | None) -> list[tuple[str, int, int]]:
    """Name, bytes and CRC-32 of the array that the test images of :func:`array_pools` are chosen from.

    A .npz file keeps them in its table of contents, so nothing of it is unpacked. A .npy file does not: ``path`` is
    read for its checksum, as training reads it; of ``test_path``, which training never opens, the size must do.
    """
    chosen = path if test_path is None else test_path
    if chosen.suffix == ".npy":
        return [("images", chosen.stat().st_size, 0 if test_path is not None else _crc(chosen))]
    test_key = _only(chosen, _names(chosen), IMAGE_KEYS["test"])
    key = test_key or _only(chosen, _names(chosen), IMAGE_KEYS["training"])
    with zipfile.ZipFile(chosen) as archive:
        members = [each for each in archive.infolist() if each.filename.removesuffix(".npy") == key]
    return [(each.filename, each.file_size, each.CRC) for each in members]


def _crc(path: Path) -> int:
    result = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            result = zlib.crc32(piece, result)
    return result


def _test_kind(path: Path) -> str:
    names = _names(path)
    for kind in ("test", "training"):
        if _only(path, names, IMAGE_KEYS[kind]) is not None:
            return kind
    raise DataError(f"{path}: no test images: name the array test, x_test or images")


def _pool(path: Path, kind: str, workspace: Workspace, static: bool) -> ArrayPool:
    names = _names(path)
    key = _only(path, names, IMAGE_KEYS[kind])
    label_key = _only(path, names, LABEL_KEYS[kind])
    if key is None:
        raise DataError(f"{path}: has changed while it was read")
    images = _shaped(_load(path, key), workspace, f"{path}: {key}")
    labels = None if label_key is None else _labels(_load(path, label_key), len(images), f"{path}: {label_key}")
    status = path.stat()
    return ArrayPool(
        images,
        labels,
        None,
        path.stem,
        workspace,
        origin=(str(path.resolve()), status.st_size, status.st_mtime_ns, key),
        scale=_scale(images, static, f"{path}: {key}"),
    )


def _names(path: Path) -> tuple[str, ...]:
    """The arrays of a .npz file; a .npy file is one array, the images."""
    if path.suffix == ".npy":
        return ("images",)
    if path.suffix != ".npz":
        raise DataError(f"{path}: neither a .npy nor a .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz file: {error}") from error


def _only(path: Path, names: tuple[str, ...], keys: tuple[str, ...]) -> str | None:
    found = [key for key in keys if key in names]
    if len(found) > 1:
        raise DataError(f"{path}: holds {' and '.join(found)}, which would mean the same: keep one of them")
    return found[0] if found else None


def _load(path: Path, key: str) -> Array:
    try:
        if path.suffix == ".npy":
            array: object = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as arrays:
                array = arrays[key]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {key} cannot be read: {error}") from error
    if not isinstance(array, np.ndarray):  # a zip named .npy, or a member that is not in NumPy's format
        raise DataError(f"{path}: {key} is not an array in NumPy's .npy format")
    return array


def _shaped(images: Array, workspace: Workspace, what: str) -> Array:
    """Unfold flat images of the model's size."""
    if images.ndim == 2:
        shape = workspace.shape(len(images))
        if images.size != int(np.prod(shape)):
            size = " x ".join(str(side) for side in shape[1:])
            raise DataError(f"{what}: flat images of {images.shape[1]} values are not of the model's size, {size}")
        return images.reshape(shape)
    if images.ndim not in (3, 4):
        raise DataError(f"{what}: shape {images.shape} is not (N, H, W), (N, H, W, C) or (N, H*W*C)")
    return images


def _labels(labels: Array, n: int, what: str) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise DataError(f"{what}: labels must be integers ({n},), not {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _scale(images: Array, static: bool, what: str) -> int:
    """255 for {0, 1} images where the configuration says that they are binary; 1 for grey levels."""
    if images.dtype not in (np.uint8, np.bool_):
        return 1
    if not len(images):
        return 1
    for start in range(0, len(images), _ROWS):
        if np.any(images[start : start + _ROWS].astype(np.uint8, copy=False) > 1):
            return 1
    if not static:
        raise DataError(
            f"{what}: {images.dtype} images of nothing but 0 and 1: if they are binary images, set "
            "data.binarization = 'static' (with a bernoulli likelihood); if grey levels, store them as 0..255"
        )
    return 255
