"""Images by their digests, so that others can be found among them without any being kept."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset


class SeenImages:
    """A set of images, the same to the last pixel.

    >>> seen, blank = SeenImages(), np.zeros((2, 8, 8, 1), np.uint8)
    >>> seen.add(blank[:1])
    >>> seen.shared(Dataset.of(blank, name="blank", split="validation"))
    2
    """

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def add(self, images: NDArray[np.uint8]) -> None:
        """Remember images ``(N, H, W, C)``."""
        self._digests.update(_digests(images))

    def shared(self, dataset: Dataset) -> int:
        """How many images of a data set are among those that were added."""
        return sum(digest in self._digests for digest in _digests(dataset.images)) if self._digests else 0


def _digests(images: NDArray[np.uint8]) -> Iterator[bytes]:
    return (hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in images)
