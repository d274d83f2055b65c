"""Laws of the quantized posterior: integers that sum to the whole, and follow the normal distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]  # SciPy ships no types

from model.bundle.compression.buckets import (
    BUCKET_BITS,
    BUCKETS,
    PRECISION,
    TOTAL,
    centers,
    cumulative,
    find,
    intervals,
    normal_cdf,
)
from model.bundle.latents import gaussian_kl

laws = settings(deadline=None, max_examples=60)
means = st.floats(-6, 6, width=32)
log_variances = st.floats(-14, 14, width=32)
every = np.arange(BUCKETS)


def like(values: np.ndarray, number: float) -> np.ndarray:
    return np.full(values.shape, number, np.float32)


def frequencies(mean: float, log_variance: float) -> np.ndarray:
    return intervals(every, like(every, mean), like(every, log_variance))[1]


@laws
@given(means, log_variances)
def test_frequencies_are_whole_not_negative_and_sum_to_the_whole(mean: float, log_variance: float) -> None:
    found = frequencies(mean, log_variance)
    assert found.dtype == np.int64
    assert found.min() >= 0
    assert found.sum() == TOTAL


@laws
@given(means, log_variances)
def test_the_cumulative_is_that_of_the_normal_distribution(mean: float, log_variance: float) -> None:
    edges = np.arange(BUCKETS + 1)
    found = cumulative(edges, like(edges, mean), like(edges, log_variance))
    assert (found[0], found[-1]) == (0, TOTAL)
    assert (np.diff(found) >= 0).all()
    sigma = np.exp(0.5 * np.float64(np.float32(log_variance)))
    exact = ndtr((ndtri(edges / BUCKETS) - np.float64(np.float32(mean))) / sigma)
    assert_allclose(found, TOTAL * exact, atol=0.5 + 1e-3)


@laws
@given(means, log_variances, st.lists(st.integers(0, TOTAL - 1), min_size=1, max_size=50))
def test_a_point_is_found_in_its_bucket(mean: float, log_variance: float, numbers: list[int]) -> None:
    points = np.array(numbers)
    found = find(points, like(points, mean), like(points, log_variance))
    start, size = intervals(found, like(points, mean), like(points, log_variance))
    assert (size >= 1).all()
    assert (start <= points).all()
    assert (points < start + size).all()


def test_every_point_of_a_distribution_is_found() -> None:
    """So a bucket is drawn just as often as its frequency says."""
    points = np.arange(TOTAL)
    found = find(points, like(points, 0.7), like(points, -3.0))
    assert_array_equal(np.bincount(found, minlength=BUCKETS), frequencies(0.7, -3.0))


def test_the_prior_has_the_same_mass_in_every_bucket() -> None:
    assert_array_equal(frequencies(0, 0), TOTAL // BUCKETS)


def test_a_center_is_the_median_of_its_bucket() -> None:
    assert_allclose(centers(every), ndtri((every + 0.5) / BUCKETS), rtol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.31, -1.7, 2.6])
@pytest.mark.parametrize("log_variance", [0.0, -0.4, -3.0, -6.0])
def test_the_divergence_over_buckets_is_that_of_the_densities(mean: float, log_variance: float) -> None:
    """sum_k q_k log(q_k / (1 / K)), what a coordinate costs on average, is KL(q || N(0, 1)).

    It can only be less, by what is not told apart within a bucket: much where the last, endless ones have mass.
    """
    shares = frequencies(mean, log_variance) / TOTAL
    drawn = shares[shares > 0]
    divergence = float(np.sum(drawn * np.log(drawn * BUCKETS)))
    exact = gaussian_kl([[mean]], [[log_variance]])[0]
    assert divergence <= exact + 1e-3  # the rounding to 2^-P
    inside = abs(mean) + 3 * np.exp(0.5 * log_variance) < 3.5
    assert divergence == pytest.approx(exact, rel=2e-3, abs=1e-3 if inside else 0.1)


@pytest.mark.parametrize(("mean", "log_variance"), [(1e30, 0.0), (-1e30, 5.0), (0.0, -1e30), (3.0, 1e30)])
def test_numbers_that_no_model_should_give_are_coded_too(mean: float, log_variance: float) -> None:
    points = np.array([0, TOTAL // 2, TOTAL - 1])
    found = find(points, like(points, mean), like(points, log_variance))
    start, size = intervals(found, like(points, mean), like(points, log_variance))
    assert ((start <= points) & (points < start + size)).all()
    assert frequencies(mean, log_variance).sum() == TOTAL


@laws
@given(st.floats(allow_nan=False))
def test_normal_cdf_is_that_of_scipy(x: float) -> None:
    assert_allclose(normal_cdf(np.array([x])), ndtr(x), atol=1e-11)


def test_constants_are_a_format() -> None:
    """Files that were written with others could not be read: a change is a new format version."""
    assert (BUCKET_BITS, PRECISION) == (12, 20)
