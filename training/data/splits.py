"""Which images are for training, validation and testing: decided by their number and a seed, never by their content."""

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.words import count

Indices = NDArray[np.int64]

_VALIDATION_STREAM = 0
_TEST_STREAM = 1
_CHOICE_STREAM = 2


def split_by_seed(n: int, fraction: float, seed: int, *, stream: int = 0) -> tuple[Indices, Indices]:
    """Hold out ``fraction`` of ``n`` rows: ``(kept, held out)``, both sorted.

    Every row draws 64 bits from Philox (key: ``seed`` and ``stream``); the ``fraction * n`` rows, rounded half up, with
    the smallest draws are held out. Raw Philox draws are the same in every NumPy version, which
    ``Generator.permutation`` does not promise.

    >>> split_by_seed(6, 0.34, seed=0)
    (array([1, 3, 4, 5]), array([0, 2]))

    Raises:
        ValueError: ``n`` is negative or ``fraction`` is not in [0, 1].
    """
    if n < 0 or not 0 <= fraction <= 1:
        raise ValueError(f"cannot hold out {fraction} of {n} rows")
    held = int(n * fraction + 0.5)
    order = _drawn_order(n, seed, stream)
    return np.sort(order[held:]), np.sort(order[:held])


def choose(n: int, count: int, seed: int) -> Indices:
    """``count`` of ``n`` rows at random, sorted; all of them where there are no more.

    The first so many rows would be those of the first folder: pictures are ordered by their names. A larger choice of
    the same seed holds a smaller one.

    >>> choose(100, 4, seed=0)
    array([ 6, 40, 86, 96])
    """
    return np.sort(_drawn_order(n, seed, _CHOICE_STREAM)[:count])


def _drawn_order(n: int, seed: int, stream: int) -> Indices:
    """The rows by their draws, from the smallest on."""
    key = np.array([seed, stream], dtype=np.uint64)
    draws = np.random.Philox(key=key).random_raw(n) if n else np.empty(0, np.uint64)
    return np.argsort(draws, kind="stable").astype(np.int64)


def hold_out_validation(n: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Divide ``n`` training images: ``(train, validation)``.

    Raises:
        DataError: either would be empty; the message says what would not.
    """
    if n < 2:
        raise DataError(
            f"{count(n, 'training image')} found: training and validation need at least one each, so 2 or more"
        )
    train, validation = split_by_seed(n, fraction, seed, stream=_VALIDATION_STREAM)
    _require(validation, "validation", n, fraction)
    return train, validation


def hold_out_test(n: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Divide ``n`` images of a source that has no test split of its own: ``(the rest, test)``.

    The test images depend on nothing but these three numbers, so that another validation_fraction leaves them alone.

    Raises:
        DataError: either would be empty; the message says what would not.
    """
    if n < 2:
        raise DataError(f"{count(n, 'image')} found: training and test need at least one each, so 2 or more")
    rest, test = split_by_seed(n, fraction, seed, stream=_TEST_STREAM)
    _require(test, "test", n, fraction)
    return rest, test


def all_rows(n: int) -> Indices:
    """0 .. n - 1."""
    return np.arange(n, dtype=np.int64)


def _require(held: Indices, split: str, n: int, fraction: float) -> None:
    if not len(held):
        enough = min(0.4, 1 / n)
        raise DataError(
            f"data.{split}_fraction = {fraction:g} of {count(n, 'image')} holds out none: "
            f"give more images, or set data.{split}_fraction to {enough:.2g} or more"
        )
