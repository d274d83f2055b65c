"""Splits are disjoint, complete, sorted, deterministic; they depend on number, fraction and seed alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.splits import choose, hold_out_test, hold_out_validation, split_by_seed
from training.errors import DataError


@given(n=st.integers(0, 400), fraction=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_a_split_is_a_sorted_partition_of_the_asked_size(n: int, fraction: float, seed: int) -> None:
    kept, held = split_by_seed(n, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(n))
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(held) > 0)
    assert len(held) == int(n * fraction + 0.5)
    again = split_by_seed(n, fraction, seed)
    assert np.array_equal(kept, again[0])
    assert np.array_equal(held, again[1])


def test_the_draws_are_pinned_for_all_time() -> None:
    """A change here would silently move test images into the training sets of resumed and repeated runs."""
    assert split_by_seed(20, 0.25, seed=3)[1].tolist() == [1, 6, 11, 13, 18]
    assert split_by_seed(20, 0.25, seed=3, stream=1)[1].tolist() == [3, 7, 8, 9, 19]


@given(n=st.integers(0, 400), count=st.integers(0, 500), seed=st.integers(0, 2**31 - 1))
def test_a_choice_is_sorted_and_part_of_every_larger_one(n: int, count: int, seed: int) -> None:
    chosen = choose(n, count, seed)
    assert len(chosen) == min(n, count)
    assert np.all(np.diff(chosen) > 0)
    assert set(chosen) <= set(choose(n, count + 7, seed)) <= set(range(n))


def test_a_choice_is_from_all_over_and_not_what_is_held_out() -> None:
    chosen = choose(10_000, 1000, seed=0)
    assert abs(chosen.mean() - 5000) < 300
    assert len(set(chosen) & set(hold_out_test(10_000, 0.1, 0)[1])) < 200


def test_seeds_and_streams_give_different_splits() -> None:
    held = {split_by_seed(100, 0.2, seed, stream=stream)[1].tobytes() for seed in range(5) for stream in range(2)}
    assert len(held) == 10


def test_every_row_is_held_out_equally_often() -> None:
    counts = np.zeros(10)
    for seed in range(2000):
        counts[split_by_seed(10, 0.3, seed)[1]] += 1
    # Binomial(2000, 0.3): standard deviation 20.5
    assert np.all(np.abs(counts - 600) < 5 * 20.5)


def test_the_test_images_do_not_depend_on_the_validation_fraction() -> None:
    rest, test = hold_out_test(50, 0.1, seed=4)
    for fraction in (0.1, 0.3):
        train, validation = hold_out_validation(len(rest), fraction, seed=4)
        assert not set(rest[train]) & set(rest[validation])
        assert not set(test) & set(rest)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 9, 31, 100, 7777])
def test_an_empty_split_is_refused_with_a_fraction_that_would_do(n: int) -> None:
    with pytest.raises(DataError, match="validation_fraction") as caught:
        hold_out_validation(n, 0.1 / n, seed=0)
    enough = float(str(caught.value).rsplit(" to ", 1)[1].split()[0])
    assert 0 < enough < 0.5
    train, validation = hold_out_validation(n, enough, seed=0)
    assert len(validation) >= 1
    assert len(train) >= 1


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_are_refused(n: int) -> None:
    with pytest.raises(DataError, match="2 or more"):
        hold_out_validation(n, 0.4, seed=0)
    with pytest.raises(DataError, match="2 or more"):
        hold_out_test(n, 0.4, seed=0)
