"""Which few images stand for a data set: one of each class in turn, so that ten digits are ten different ones."""

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset


def showcase(dataset: Dataset, count: int) -> NDArray[np.int64]:
    """Numbers of up to ``count`` images: the first of every class, then the second ..., classes in order.

    Without labels the first ones. A function of the data set alone.

    >>> images = np.zeros((5, 8, 8, 1), np.uint8)
    >>> blank = Dataset.of(images, name="blank", split="validation", labels=np.array([7, 7, 3, 7, 3]))
    >>> showcase(blank, 4).tolist()
    [2, 0, 4, 1]
    """
    if dataset.labels is None:
        return np.arange(min(count, len(dataset)), dtype=np.int64)
    turn = np.empty(len(dataset), np.int64)
    for label in np.unique(dataset.labels):
        members = np.flatnonzero(dataset.labels == label)
        turn[members] = np.arange(len(members))
    return np.lexsort((dataset.labels, turn))[:count].astype(np.int64)
