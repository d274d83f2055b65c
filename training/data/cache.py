"""Where many images go: memory while they are few, a memory-mapped file in a cache folder when they are not."""

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError

MEMORY_LIMIT = 1 << 30
"""Bytes. A larger array is kept in a file, which the operating system pages in and out."""

_ABANDONED_SECONDS = 24 * 3600


def materialize(
    shape: tuple[int, int, int, int],
    fill: Callable[[NDArray[np.uint8]], None],
    *,
    key: str,
    folder: Path,
    limit: int = MEMORY_LIMIT,
) -> NDArray[np.uint8]:
    """A uint8 array of ``shape`` that ``fill`` has written: in memory, or a read-only memory map of ``folder/KEY.npy``.

    Args:
        shape: ``(N, H, W, C)``.
        fill: writes the whole array it is given. Not called where the file of an earlier run is there.
        key: a digest of everything the content depends on.
        folder: made if needed, and only if needed.
        limit: bytes; a larger array goes to a file.

    Raises:
        DataError: the folder or the file cannot be written, or the disk is too full.
    """
    size = math.prod(shape)
    if size <= limit:
        images = np.empty(shape, np.uint8)
        fill(images)
        return images
    path = folder / f"{key}.npy"
    cached = _open(path, shape)
    if cached is not None:
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        _require_space(folder, size)
        _build(path, shape, fill)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{folder}: cannot keep the decoded images there ({reason}); name another folder with --data-dir"
        ) from error
    built = _open(path, shape)
    if built is None:
        raise DataError(f"{path}: was changed by something else while it was written")
    return built


def _open(path: Path, shape: tuple[int, int, int, int]) -> NDArray[np.uint8] | None:
    """The array of an earlier run, or None when there is none or it is not what it should be."""
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return images if isinstance(images, np.memmap) and images.shape == shape and images.dtype == np.uint8 else None


def _build(path: Path, shape: tuple[int, int, int, int], fill: Callable[[NDArray[np.uint8]], None]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        fill(images)
        images.flush()
        del images
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _require_space(folder: Path, size: int) -> None:
    """Writing to a memory map on a full disk would end the process with SIGBUS, not with an exception."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DataError(
            f"{folder}: the decoded images need {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "name another folder with --data-dir"
        )


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed runs left behind; a file written to within the last day may belong to a living one."""
    for partial in folder.glob("*.partial"):
        if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
            partial.unlink(missing_ok=True)
