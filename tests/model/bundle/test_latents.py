"""Laws of prior, posterior, KL, interpolation and traversal."""

from typing import cast, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from model.bundle.latents import (
    MAX_SEED,
    PathKind,
    gaussian_draws,
    gaussian_kl,
    interpolate,
    posterior_noise,
    posterior_samples,
    prior_latents,
    traverse,
)

coordinates = st.floats(-10, 10, width=32)
PRIOR_OF_SEED_0 = [
    [0.1592954695224762, -1.77418851852417, 1.3265118598937988],
    [1.2048090696334839, -0.039103712886571884, -0.5194193124771118],
]
PRIOR_OF_LAST_SEED = [[-0.22136496007442474, 1.5927236080169678, 0.17648062109947205]]
NOISE_OF_SEED_0 = [
    [[-0.7440191507339478, -0.014424609951674938, 0.5053939819335938]],
    [[2.0158729553222656, 0.45670974254608154, 0.1138288751244545]],
]

paths: st.SearchStrategy[PathKind] = st.sampled_from(get_args(PathKind))
laws = settings(deadline=None, max_examples=60)


def points(count: int = 2, low: int = 1, high: int = 6) -> st.SearchStrategy[np.ndarray]:
    return st.integers(low, high).flatmap(lambda d: arrays(np.float32, (count, d), elements=coordinates))


def test_the_values_of_a_seed_never_change() -> None:
    """Clients keep seeds; another NumPy, machine or refactoring must give them the same latents."""
    assert_allclose(prior_latents(2, 3, seed=0), PRIOR_OF_SEED_0, rtol=1e-6)
    assert_allclose(prior_latents(1, 3, seed=MAX_SEED), PRIOR_OF_LAST_SEED, rtol=1e-6)
    assert_allclose(posterior_noise(2, 1, 3, seed=0), NOISE_OF_SEED_0, rtol=1e-6)


@laws
@given(st.integers(0, MAX_SEED), st.integers(0, 8), st.integers(0, 8))
def test_more_latents_begin_with_the_fewer(seed: int, few: int, more: int) -> None:
    few, more = sorted((few, more))
    assert_array_equal(prior_latents(more, 4, seed=seed)[:few], prior_latents(few, 4, seed=seed))


def test_prior_is_standard_normal_times_temperature() -> None:
    draws = prior_latents(50_000, 2, seed=1, temperature=0.5)
    assert draws.dtype == np.float32
    assert_allclose(draws.mean(axis=0), 0, atol=0.01)
    assert_allclose(draws.std(axis=0), 0.5, atol=0.01)
    assert_allclose(prior_latents(3, 2, seed=1, temperature=0), 0)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        prior_latents(1, 1, seed=seed)


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_temperatures_that_are_none_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        prior_latents(1, 1, seed=0, temperature=temperature)


@laws
@given(st.integers(0, MAX_SEED), st.integers(1, 6), st.integers(0, 5), st.integers(0, 4))
def test_noise_of_an_image_does_not_depend_on_its_company(seed: int, n: int, i: int, k: int) -> None:
    i %= n
    noise = posterior_noise(n, k + 1, 3, seed=seed)
    assert_array_equal(noise[i : i + 1], posterior_noise(1, k + 1, 3, seed=seed, first=i))
    assert_array_equal(noise[:i], posterior_noise(i, k + 1, 3, seed=seed))
    assert_array_equal(noise[:, :k], posterior_noise(n, k, 3, seed=seed))


def test_streams_of_images_seeds_and_prior_are_different() -> None:
    noise = posterior_noise(3, 2, 4, seed=5)
    rows = [*noise.reshape(3, -1), *posterior_noise(1, 2, 4, seed=6).reshape(1, -1)]
    rows += [prior_latents(2, 4, seed=5).reshape(-1)]
    assert all(not np.isclose(a, b).any() for i, a in enumerate(rows) for b in rows[:i])


def test_posterior_samples_have_the_posterior_moments() -> None:
    mean, log_variance = np.array([[1.0, -2.0]]), np.array([[0.0, np.log(0.25)]])
    draws = posterior_samples(mean, log_variance, 50_000, seed=3)
    assert draws.shape == (1, 50_000, 2)
    assert draws.dtype == np.float32
    assert_allclose(draws[0].mean(axis=0), mean[0], atol=0.02)
    assert_allclose(draws[0].std(axis=0), [1.0, 0.5], atol=0.02)


def test_samples_of_an_overflowing_posterior_are_not_finite() -> None:
    assert not np.isfinite(posterior_samples([[0.0]], [[2000.0]], 3, seed=0)).any()


@laws
@given(points(count=2))
def test_kl_is_never_negative(pair: np.ndarray) -> None:
    assert gaussian_kl(pair[:1], pair[1:])[0] >= 0


@laws
@given(arrays(np.float64, (2, 3), elements=st.floats(-2, 2)))
def test_kl_is_the_integral_of_the_log_ratio(pair: np.ndarray) -> None:
    """KL = E_q[log q - log p], one dimension at a time, by Gauss-Hermite quadrature, exact for these polynomials."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights /= weights.sum()
    total = 0.0
    for mean, log_variance in pair.T:
        z = mean + np.exp(log_variance / 2) * nodes
        log_q = -0.5 * (nodes**2 + log_variance)
        log_p = -0.5 * z**2
        total += float(weights @ (log_q - log_p))
    assert_allclose(gaussian_kl(pair[:1], pair[1:])[0], total, rtol=1e-9, atol=1e-9)


def test_kl_is_the_monte_carlo_kl_of_the_samples() -> None:
    mean, log_variance = np.array([[0.7, -1.1]]), np.array([[-1.0, 0.4]])
    z = posterior_samples(mean, log_variance, 200_000, seed=11)[0].astype(np.float64)
    log_q = -0.5 * ((z - mean) ** 2 / np.exp(log_variance) + log_variance)
    log_p = -0.5 * z**2
    ratios = (log_q - log_p).sum(axis=1)
    error = ratios.std() / np.sqrt(len(ratios))
    assert abs(gaussian_kl(mean, log_variance)[0] - ratios.mean()) < 4 * error


def test_kl_keeps_its_digits_where_a_dimension_collapsed() -> None:
    assert_allclose(gaussian_kl([[0.0]], [[1e-6]]), 0.25e-12, rtol=1e-3)


@pytest.mark.parametrize(("mean", "log_variance"), [([0.0], [0.0]), ([[0.0]], [[0.0, 0.0]])])
def test_kl_refuses_other_shapes(mean: list[float], log_variance: list[float]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        gaussian_kl(mean, log_variance)


@laws
@given(st.integers(2, 4).flatmap(points), st.integers(2, 7), paths)
def test_paths_pass_exactly_through_every_point(ends: np.ndarray, steps: int, path: PathKind) -> None:
    frames = interpolate(ends, steps, path)
    assert frames.shape == ((len(ends) - 1) * (steps - 1) + 1, ends.shape[1])
    assert frames.dtype == np.float32
    assert np.isfinite(frames).all()
    assert_array_equal(frames[:: steps - 1], ends)


@laws
@given(points(), st.integers(3, 9))
def test_linear_steps_are_even(ends: np.ndarray, steps: int) -> None:
    differences = np.diff(interpolate(ends, steps, "linear"), axis=0)
    assert_allclose(differences, np.broadcast_to((ends[1] - ends[0]) / (steps - 1), differences.shape), atol=1e-4)


@laws
@given(points(low=2), st.integers(3, 9))
def test_slerp_lengths_change_linearly(ends: np.ndarray, steps: int) -> None:
    norms = np.linalg.norm(ends.astype(np.float64), axis=1)
    frames = interpolate(ends, steps, "slerp")
    assert_allclose(np.linalg.norm(frames, axis=1), np.linspace(norms[0], norms[1], steps), rtol=1e-5, atol=1e-5)


def test_slerp_turns_at_constant_speed() -> None:
    frames = interpolate([[2, 0, 0], [-1, 3, 1]], 9).astype(np.float64)
    directions = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    angles = np.arccos(np.sum(directions[1:] * directions[:-1], axis=1))
    assert_allclose(angles, angles[0], rtol=1e-5)


@laws
@given(points(), st.integers(2, 6), paths)
def test_the_way_back_is_the_same_way(ends: np.ndarray, steps: int, path: PathKind) -> None:
    if path == "slerp" and np.linalg.norm(ends) > 0:
        u = ends / np.maximum(np.linalg.norm(ends.astype(np.float64), axis=1, keepdims=True), 1e-300)
        if np.linalg.norm(u[0] + u[1]) < 1e-3:
            return  # opposite vectors: every half circle is shortest, and each end picks its own
    there, back = (interpolate(e, steps, path) for e in (ends, ends[::-1]))
    assert_allclose(there, back[::-1], atol=1e-4)


def test_slerp_from_zero_and_between_equals_is_straight() -> None:
    assert_allclose(interpolate([[0, 0], [2, 4]], 3), [[0, 0], [1, 2], [2, 4]])
    assert_allclose(interpolate([[0, 0], [0, 0]], 3), 0)
    assert_allclose(interpolate([[1, 2], [1, 2]], 4), np.tile([[1, 2]], (4, 1)), rtol=1e-6)
    assert_allclose(interpolate([[1, 2], [3, 6]], 3), [[1, 2], [2, 4], [3, 6]], rtol=1e-6)
    assert_allclose(interpolate([[2], [-4]], 3), [[2], [-1], [-4]])


def test_slerp_between_opposites_goes_round_and_not_through_zero() -> None:
    frames = interpolate([[3, 0], [-3, 0]], 5)
    assert_allclose(np.linalg.norm(frames, axis=1), 3, rtol=1e-6)
    assert_allclose(frames[2], [0, 3], atol=1e-6)
    assert_array_equal(frames, interpolate([[3, 0], [-3, 0]], 5))


def test_slerp_survives_the_ends_of_float32() -> None:
    for scale in (1e-38, 1e-20, 1e20, 1e38):
        frames = interpolate(np.array([[1, 0], [0, 1]]) * scale, 3)
        assert_allclose(frames[1] / scale, np.sqrt([0.5, 0.5]), rtol=1e-4)


@pytest.mark.parametrize(
    ("ends", "steps", "path", "message"),
    [
        ([[1.0]], 2, "slerp", "two points"),
        ([1.0, 2.0], 2, "slerp", "shape"),
        ([[1.0], [2.0]], 1, "slerp", "steps"),
        ([[1.0], [2.0]], 2, "cubic", "path"),
    ],
)
def test_interpolate_refuses(ends: list[list[float]], steps: int, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate(ends, steps, cast(PathKind, path))


@laws
@given(points(count=1), st.integers(1, 9), st.integers(0, 5))
def test_traverse_moves_one_coordinate_only(latent: np.ndarray, steps: int, dimension: int) -> None:
    dimension %= latent.shape[1]
    frames = traverse(latent[0], dimension, -3, 3, steps)
    assert_allclose(frames[:, dimension], np.linspace(-3, 3, steps), rtol=1e-6)
    others = np.delete(frames, dimension, axis=1)
    assert_array_equal(others, np.broadcast_to(np.delete(latent, dimension, axis=1), others.shape))


def test_traverse_refuses() -> None:
    with pytest.raises(ValueError, match="dimension must be between 0 and 1"):
        traverse([0, 0], 2, -1, 1, 3)
    with pytest.raises(ValueError, match="steps"):
        traverse([0, 0], 0, -1, 1, 0)
    with pytest.raises(ValueError, match="shape"):
        traverse([[0, 0]], 0, -1, 1, 3)


def test_an_arc_beyond_float32_is_infinite_and_says_nothing() -> None:
    with np.errstate(all="raise"):
        frames = interpolate([[3e38, 3e38], [3e38, -3e38]], 3)
    assert frames[1, 0] == np.inf
    assert np.isfinite(frames[[0, 2]]).all()


def test_draws_are_the_samples_of_the_seed_bit_for_bit() -> None:
    random = np.random.default_rng(0)
    mean, log_variance = (random.normal(size=(3, 500)).astype(np.float32) for _ in range(2))
    noise = posterior_noise(3, 4, 500, seed=2)
    latents, log_density = gaussian_draws(mean[:, None], log_variance[:, None], noise)
    assert_array_equal(latents, posterior_samples(mean, log_variance, 4, seed=2))
    squared = (latents - mean[:, None].astype(np.float64)) ** 2 / np.exp(log_variance[:, None].astype(np.float64))
    wanted = -0.5 * (squared + log_variance[:, None] + np.log(2 * np.pi)).sum(-1)
    assert_allclose(log_density, wanted, rtol=1e-5)
    assert latents.dtype == log_density.dtype == np.float32
