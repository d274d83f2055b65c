"""A pool: images of one source, of which chosen rows can be read; the others stay untouched."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
from numpy.typing import NDArray

from model.bundle.errors import PictureError
from model.bundle.manifest import ImageSpec
from model.bundle.pixels import fit_array, to_uint8
from training.data.cache import MEMORY_LIMIT, materialize
from training.data.dataset import Dataset, Progress
from training.data.splits import Indices
from training.errors import DataError

# Raise it when model.bundle.pixels makes other pixels of the same picture: caches of before are then not used again.
_FITTING_VERSION = 1
_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True)
class Workspace:
    """What every pool needs to turn a source's images into the model's.

    Attributes:
        image: size, channels and fit rule of the model.
        cache: folder for arrays of more than ``memory_limit`` bytes.
        progress: told how far decoding is.
        memory_limit: bytes.
    """

    image: ImageSpec
    cache: Path
    progress: Progress | None = None
    memory_limit: int = MEMORY_LIMIT

    def shape(self, n: int) -> tuple[int, int, int, int]:
        """``(n, H, W, C)`` of the model."""
        return n, self.image.height, self.image.width, self.image.channels

    def key(self, *parts: object) -> str:
        """Names a cached array: a digest of ``parts`` (as JSON), the image spec, and the code that fits pictures."""
        text = json.dumps([_FITTING_VERSION, PIL.__version__, self.image.model_dump(mode="json"), *parts])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def report(self, what: str, done: int, total: int) -> None:
        """Tell ``progress``, if there is one."""
        if self.progress is not None:
            self.progress(what, done, total)


class Pool(Protocol):
    """Images of one source, in a fixed order that does not depend on their content."""

    @property
    def name(self) -> str:
        """What the data are called."""
        ...

    def __len__(self) -> int: ...

    def read(self, rows: Indices, split: str) -> Dataset:
        """The images ``rows``, fitted to the model, as the data set of ``split``."""
        ...

    def check(self, rows: Indices, split: str, judge: Callable[[NDArray[np.uint8]], None]) -> None:
        """Fit the images ``rows``, show them to ``judge``, some ``(N, H, W, C)`` at a time, and keep none."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayPool:
    """Rows of an array.

    Attributes:
        images: ``(N, H, W)`` or ``(N, H, W, C)``, uint8 0..255 or float [0, 1], of any size; perhaps a memory map.
        labels: int64 ``(N,)`` or None.
        label_names: names of the labels, or None.
        name: what the data are called.
        workspace: the model's image spec and the cache.
        origin: identifies the content (as file, size and time, or a digest), for the cache.
        scale: what uint8 and bool values are multiplied by: 255 where they are known to be {0, 1}.
    """

    images: NDArray[np.generic]
    labels: NDArray[np.int64] | None
    label_names: tuple[str, ...] | None
    name: str
    workspace: Workspace
    origin: tuple[str | int, ...]
    scale: int = 1

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: Indices, split: str) -> Dataset:
        """See :class:`Pool`.

        Raises:
            DataError: the array is not what ``images`` says, or a value is out of range.
        """
        workspace = self.workspace
        step = self._rows_at_a_time()

        def fill(out: NDArray[np.uint8]) -> None:
            for start in range(0, len(rows), step):
                piece = self.images[rows[start : start + step]]
                out[start : start + step] = self._fitted(piece, start, split)
                workspace.report(f"reading {self.name}", min(start + step, len(rows)), len(rows))

        row_digest = hashlib.sha256(rows.tobytes()).hexdigest()
        images = materialize(
            workspace.shape(len(rows)),
            fill,
            key=workspace.key("array", self.origin, self.scale, row_digest),
            folder=workspace.cache,
            limit=workspace.memory_limit,
        )
        return Dataset.of(
            images,
            name=self.name,
            split=split,
            labels=None if self.labels is None else self.labels[rows],
            label_names=self.label_names,
        )

    def check(self, rows: Indices, split: str, judge: Callable[[NDArray[np.uint8]], None]) -> None:
        """See :class:`Pool`; raises as ``read`` does."""
        step = self._rows_at_a_time()
        for start in range(0, len(rows), step):
            judge(self._fitted(self.images[rows[start : start + step]], start, split))

    def _rows_at_a_time(self) -> int:
        return max(1, _CHUNK_BYTES // max(1, self.images[:1].nbytes))

    def _fitted(self, piece: NDArray[np.generic], start: int, split: str) -> NDArray[np.uint8]:
        if self.scale != 1:
            piece = piece.astype(np.uint8) * np.uint8(self.scale)
        try:
            fitted = fit_array(piece, self.workspace.image)
        except PictureError as error:
            raise DataError(f"{self.name}: {split} images from number {start} on: {error}") from error
        return fitted.astype(np.uint8, copy=False) if fitted.dtype == np.uint8 else to_uint8(fitted.astype(np.float32))
