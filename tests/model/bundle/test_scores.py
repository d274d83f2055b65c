"""Scores are what they are called: bounds in their order, unbiased where they say so, and the same as PyTorch's."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from model.bundle.errors import BundleError
from model.bundle.latents import binary_draws, standard_normal_log_density
from model.bundle.manifest import SCORES, LikelihoodSpec
from model.bundle.pixels import to_network, to_unit
from model.bundle.runtime import Bundle, RuntimeOptions
from model.bundle.scores import (
    Scores,
    bits_per_dim,
    estimate,
    has_likelihood,
    observed,
    percentile,
    score_images,
)
from model.bundle.store import open_bundle
from tests.support.tiny import rewrite, tiny_weights, write_tiny_bundle

ONE_THREAD = RuntimeOptions(threads=1)


@pytest.fixture(scope="module", params=[False, True], ids=["diagonal", "flow"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return open_bundle(write_tiny_bundle(folder, flow=request.param, scores=True), ONE_THREAD)


def pictures(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 8, 8, 1)).astype(np.uint8) * np.uint8(255)


def log_evidence(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """log p(x) of the tiny model's two latents, on a fine grid."""
    axis = np.linspace(-7, 7, 281)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    logits = grid @ tiny_weights(bundle.manifest.image, bundle.manifest.latent)["W"].astype(np.float64)
    log_prior = standard_normal_log_density(grid) + 2 * np.log(axis[1] - axis[0])
    x = images.reshape(len(images), -1) / 255
    return np.asarray(np.logaddexp.reduce(x @ logits.T - np.logaddexp(0, logits).sum(1) + log_prior, axis=1))


def test_the_bounds_of_a_bundle_lie_in_their_order_below_the_evidence(bundle: Bundle) -> None:
    images = pictures(4)
    exact = log_evidence(bundle, images)
    many = score_images(bundle, images, 4000, seed=1)
    few = [score_images(bundle, images, 4, seed=seed) for seed in range(200)]
    mean, error = _over(few, "log_likelihood")
    assert (mean < exact + 4 * error).all()
    assert (mean > many.elbo).all()


def test_the_estimate_reaches_the_evidence_of_a_model_in_closed_form() -> None:
    """z ~ N(0, 1), x ~ N(z, 1), so that x ~ N(0, 2) and z given x ~ N(x/2, 1/2); q is a little off."""
    x = np.array([[-2.0], [0.0], [3.0]])
    mean, scale = 0.5 * x + 0.2, 0.8
    z = mean + scale * np.random.default_rng(0).standard_normal((3, 20_000))
    densities = _log_normal(x, z, 1.0), _log_normal(z, 0.0, 1.0), _log_normal(z, mean, scale)
    scores = estimate(*densities)
    exact = _log_normal(x[:, 0], 0.0, np.sqrt(2))
    assert_allclose(scores.log_likelihood, exact, atol=0.01)
    gap = np.log(np.sqrt(0.5) / scale) + (scale**2 + 0.2**2) / (2 * 0.5) - 0.5  # KL(q || posterior)
    assert_allclose(scores.elbo, exact - gap, atol=0.03)
    closed = 0.5 * (mean[:, 0] ** 2 + scale**2 - 1 - 2 * np.log(scale))
    assert_allclose(scores.kl, closed, atol=0.03)
    assert_allclose(estimate(*densities, closed).elbo, exact - gap, atol=0.03)


def _log_normal(x: np.ndarray, mean: Any, scale: Any) -> np.ndarray:
    return np.asarray(-0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi))


def test_the_elbo_has_one_expectation_whatever_the_number_of_draws(bundle: Bundle) -> None:
    images = pictures(3)
    one, error = _over([score_images(bundle, images, 1, seed=seed) for seed in range(400)], "elbo")
    many = score_images(bundle, images, 8000, seed=0)
    assert (np.abs(one - many.elbo) < 5 * error + 0.05).all()
    assert_allclose(many.elbo, -(many.kl + many.distortion))


def _over(scores: list[Scores], name: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.stack([getattr(each, name) for each in scores])
    return values.mean(0), values.std(0) / np.sqrt(len(values))


def test_equal_weights_are_all_effective_and_one_heavy_weight_is_alone() -> None:
    zero = np.zeros((2, 8))
    heavy = zero.copy()
    heavy[1, 3] = 50.0
    scores = estimate(heavy, zero, zero)
    assert_allclose(scores.effective_sample_size, [8, 1])
    assert scores.reliable.tolist() == [True, False]
    assert_allclose(scores.log_likelihood, [0, 50 - np.log(8)])


def test_far_weights_do_not_overflow() -> None:
    scores = estimate(np.array([[-4000.0, -4010.0]]), np.zeros((1, 2)), np.zeros((1, 2)))
    assert scores.log_likelihood[0] == pytest.approx(-4000 + np.log((1 + np.exp(-10)) / 2))


def test_a_seed_is_a_seed_and_images_do_not_depend_on_their_neighbours(bundle: Bundle) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    scores, heard = score_images(bundle, grey, 8, seed=3), list[int]()
    again = score_images(bundle, grey[:2], 8, seed=3, progress=heard.append)
    assert heard == [1, 1]
    for part, other in zip(scores, again, strict=True):
        assert_array_equal(part[:2], other)
    assert (score_images(bundle, grey, 8, seed=4).elbo != scores.elbo).all()


# --- what is observed


def test_grey_becomes_binary_as_in_training() -> None:
    grey = np.full((2, 40, 50, 1), 64, np.uint8)
    drawn = observed(grey, _bernoulli("dynamic"), seed=0)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert drawn.mean() == pytest.approx(64 / 255, abs=0.02)
    assert (drawn[0] != drawn[1]).any()
    assert_array_equal(drawn, observed(to_unit(grey), _bernoulli("dynamic"), seed=0))
    assert_array_equal(
        observed(np.array([0, 127, 128, 255], np.uint8).reshape(1, 2, 2, 1), _bernoulli("static"), seed=0).ravel(),
        [0, 0, 1, 1],
    )
    for whatever in (grey, to_unit(grey)):
        assert observed(whatever, _bernoulli("none"), seed=0) is whatever


def _bernoulli(binarization: Any) -> LikelihoodSpec:
    return LikelihoodSpec(family="bernoulli", binarization=binarization)


def test_black_and_white_stay_whatever_the_seed() -> None:
    binary = pictures(5)
    for seed in range(5):
        assert_array_equal(observed(binary, _bernoulli("dynamic"), seed=seed), binary / 255)


def test_the_pixels_of_an_image_do_not_depend_on_its_neighbours() -> None:
    grey = np.random.default_rng(0).random((4, 5, 5, 1), np.float32)
    whole = binary_draws(grey, seed=9)
    assert_array_equal(binary_draws(grey[2:], seed=9, first=2), whole[2:])


def test_bits_are_of_discrete_pixels_only(bundle: Bundle) -> None:
    nats = np.array([-64 * np.log(2)])
    bits = bits_per_dim(nats, bundle.manifest)
    assert bits is not None
    assert_allclose(bits, 1)
    for likelihood in (LikelihoodSpec(family="gaussian", scale=0.1), _bernoulli("none")):
        assert bits_per_dim(nats, bundle.manifest.model_copy(update={"likelihood": likelihood})) is None
    assert has_likelihood(_bernoulli("static"))
    assert not has_likelihood(_bernoulli("none"))


# --- what others are held against


def test_percentiles_are_shares_of_the_reference() -> None:
    reference = np.sort(np.random.default_rng(0).normal(size=1000)).astype(np.float32)
    fresh = np.random.default_rng(1).normal(size=20_000)
    shares = percentile(fresh, reference)
    assert_array_equal(percentile(np.array([-9.0, 9.0]), reference), [0, 100])
    assert np.mean(shares < 25) == pytest.approx(0.25, abs=0.04)


def test_a_bundle_holds_the_scores_of_its_images(bundle: Bundle) -> None:
    images = np.random.default_rng(2).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    scores = score_images(bundle, images, 16, seed=0)
    assert bundle.validation_scores is not None
    assert_allclose(bundle.validation_scores, np.sort(scores.elbo), rtol=1e-5)
    assert_allclose(
        np.sort(percentile(scores.elbo.astype(np.float32), bundle.validation_scores)), 5.0 * np.arange(20) + 2.5
    )


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"elbo": np.zeros(19, np.float32)},
        {"elbo": np.zeros(20)},
        {"elbo": -np.arange(20, dtype=np.float32)},
        {"elbo": np.full(20, np.nan, np.float32)},
        {"elbo": np.zeros(20, np.float32), "more": np.zeros(1)},
    ],
    ids=["none", "few", "float64", "descending", "nan", "more"],
)
def test_scores_that_are_none_are_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny", scores=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (folder / SCORES).write_bytes(buffer.getvalue())
    rewrite(folder)
    with pytest.raises(BundleError, match=r"scores\.npz: does not hold one array elbo, ascending, of 20 float32"):
        open_bundle(folder, ONE_THREAD)


def test_without_a_likelihood_graph_there_are_no_scores(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "tiny"), ONE_THREAD)
    with pytest.raises(ValueError, match="tiny/1 has no likelihood graph"):
        score_images(bundle, pictures(1), 4, seed=0)


def test_the_likelihood_is_that_of_the_decoders_pixels(bundle: Bundle) -> None:
    latents = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)
    x = to_network(pictures(6))
    means = bundle.decode(latents).astype(np.float64)
    wanted = np.log(np.where(x == 1, means, 1 - means)).sum((1, 2, 3))
    assert_allclose(bundle.log_likelihood(latents, x), wanted, rtol=1e-4)
