"""A split of images in memory, or in a memory-mapped file: what every source returns and the loop consumes."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``: called while something slow goes on; ``total`` is 0 where it is not known."""

_PIECE_BYTES = 1 << 24


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one split, in the size and channels of the model.

    Attributes:
        images: uint8 ``(N, H, W, C)``, 0..255; in memory, or a read-only ``numpy.memmap``.
        labels: int64 ``(N,)``, or None where the source has none. Never used in training, only in figures.
        label_names: what label 0, 1, ... is called, or None.
        name: what the data are called in reports, such as ``"MNIST"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        sha256: digest of ``images`` (see :func:`digest`); a resumed run checks that it sees the same data.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    label_names: tuple[str, ...] | None
    name: str
    split: str
    sha256: str

    @classmethod
    def of(
        cls,
        images: NDArray[np.uint8],
        *,
        name: str,
        split: str,
        labels: NDArray[np.int64] | None = None,
        label_names: tuple[str, ...] | None = None,
    ) -> "Dataset":
        """Build a data set and compute its digest.

        Raises:
            ValueError: ``images`` is not uint8 ``(N, H, W, C)``, or ``labels`` is not int64 ``(N,)``.
        """
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, H, W, C), not {images.dtype} {images.shape}")
        if labels is not None and (labels.dtype != np.int64 or labels.shape != images.shape[:1]):
            raise ValueError(f"labels must be int64 ({len(images)},), not {labels.dtype} {labels.shape}")
        return cls(images, labels, label_names, name, split, digest(images))

    def __len__(self) -> int:
        return len(self.images)

    def mean_image(self) -> NDArray[np.float64]:
        """The mean of the images, ``(H, W, C)`` in [0, 1]. Reads a memory map in pieces.

        >>> images = np.zeros((2, 8, 8, 1), np.uint8)
        >>> images[0] = 255
        >>> float(Dataset.of(images, name="half", split="train").mean_image()[0, 0, 0])
        0.5
        """
        total = np.zeros(self.images.shape[1:], np.uint64)
        for piece in pieces(self.images):
            total += piece.sum(axis=0, dtype=np.uint64)
        return total / (255 * max(1, len(self.images)))

    def subset(self, indices: NDArray[np.int64], split: str | None = None) -> "Dataset":
        """The images ``indices``, in that order, copied into memory; ``split`` names the new split.

        >>> whole = Dataset.of(np.zeros((3, 8, 8, 1), np.uint8), name="blank", split="train")
        >>> len(whole.subset(np.array([0, 2])))
        2
        """
        return Dataset.of(
            np.asarray(self.images[indices]),
            name=self.name,
            split=split or self.split,
            labels=None if self.labels is None else self.labels[indices],
            label_names=self.label_names,
        )


def digest(images: NDArray[np.uint8]) -> str:
    """SHA-256 of the shape, as ``"N,H,W,C:"``, followed by the pixels in C order. Reads a memory map in pieces.

    >>> digest(np.zeros((1, 8, 8, 1), np.uint8))[:8]
    'aa8ab0b2'
    """
    result = hashlib.sha256((",".join(map(str, images.shape)) + ":").encode())
    for piece in pieces(images):
        result.update(np.ascontiguousarray(piece).data)
    return result.hexdigest()


def pieces(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """All images in order, a few megabytes at a time: what lies in a memory map need not fit into memory."""
    rows = max(1, _PIECE_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        yield images[start : start + rows]
