"""Priors in NumPy: seeded draws that never change, their density, and a file that holds what the manifest says."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import prior as module
from model.bundle.errors import BundleError
from model.bundle.latents import MAX_SEED, posterior_noise, prior_latents
from model.bundle.manifest import PriorSpec
from model.bundle.prior import Mixture, Prior, StandardNormal, read_prior, write_prior

VAMP = PriorSpec(family="vamp", components=4)
PINNED = [4.0, 8.0, 4.0, 5.0, 5.0, 3.0, 5.0, 0.0]
"""Which of ten components the draws of seed 0 are of."""


def mixture(count: int = 4, dim: int = 2) -> Mixture:
    random = np.random.default_rng(0)
    return Mixture(
        (2 * random.standard_normal((count, dim))).astype(np.float32),
        (random.standard_normal((count, dim)) - 1).astype(np.float32),
    )


PRIORS = pytest.mark.parametrize("prior", [StandardNormal(2), mixture()], ids=["standard", "mixture"])


class TestDraw:
    @PRIORS
    def test_the_first_of_many_are_the_few(self, prior: Prior) -> None:
        many, few = prior.draw(50, seed=7), prior.draw(3, seed=7)
        assert many.dtype == np.float32
        assert many.shape == (50, 2)
        np.testing.assert_array_equal(many[:3], few)

    @PRIORS
    def test_seeds_decide(self, prior: Prior) -> None:
        np.testing.assert_array_equal(prior.draw(9, seed=MAX_SEED), prior.draw(9, seed=MAX_SEED))
        assert not np.array_equal(prior.draw(9, seed=1), prior.draw(9, seed=2))

    def test_of_the_standard_normal_are_prior_latents_bit_for_bit(self) -> None:
        found = StandardNormal(3).draw(5, seed=11, temperature=0.7)
        np.testing.assert_array_equal(found, prior_latents(5, 3, seed=11, temperature=0.7))

    def test_one_standard_normal_component_is_the_standard_normal_bit_for_bit(self) -> None:
        one = Mixture(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))
        np.testing.assert_array_equal(one.draw(5, seed=11), prior_latents(5, 3, seed=11))

    def test_the_values_of_a_seed_never_change(self) -> None:
        line = Mixture(np.arange(10, dtype=np.float32)[:, None], np.zeros((10, 1), np.float32))
        assert line.draw(8, seed=0, temperature=0)[:, 0].tolist() == PINNED
        noise = prior_latents(8, 1, seed=0)[:, 0]
        np.testing.assert_allclose(line.draw(8, seed=0)[:, 0], np.array(PINNED) + noise, rtol=1e-6)

    @PRIORS
    def test_have_the_moments_that_the_prior_tells(self, prior: Prior) -> None:
        draws, count = prior.draw(100_000, seed=3).astype(np.float64), 100_000
        error = 4 * prior.standard_deviation / math.sqrt(count)
        assert (np.abs(draws.mean(axis=0) - prior.mean) < error).all()
        squares = (draws - prior.mean) ** 2
        error = 4 * squares.std(axis=0) / math.sqrt(count)
        assert (np.abs(squares.mean(axis=0) - prior.standard_deviation**2) < error).all()

    def test_each_component_makes_as_many_and_none_is_left_out(self) -> None:
        count, line = 80_000, Mixture(np.arange(7, dtype=np.float32)[:, None], np.zeros((7, 1), np.float32))
        shares = np.bincount(line.draw(count, seed=5, temperature=0)[:, 0].astype(int), minlength=7) / count
        assert (np.abs(shares - 1 / 7) < 4 * math.sqrt(6 / 49 / count)).all()

    def test_components_and_noise_know_nothing_of_each_other(self) -> None:
        far = Mixture(np.array([[-1e3], [1e3]], np.float32), np.zeros((2, 1), np.float32))
        draws = far.draw(50_000, seed=1)[:, 0]
        side, noise = np.sign(draws), prior_latents(50_000, 1, seed=1)[:, 0]
        assert abs((side * noise).mean()) < 4 / math.sqrt(50_000)
        np.testing.assert_allclose(draws - 1e3 * side, noise, atol=1e-4)

    def test_components_are_chosen_by_no_stream_of_an_image(self) -> None:
        """The stream of the components is the last, and images have those from 1 on."""
        wide = Mixture(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32))
        posteriors = posterior_noise(100, 1, 4, seed=2)[:, 0]
        assert not (wide.draw(1, seed=2) == posteriors).any()
        assert module._COMPONENTS_STREAM == 2**64 - 1

    def test_temperature_scales_components_and_not_their_distances(self) -> None:
        prior = mixture()
        cold, warm, hot = (prior.draw(20, seed=4, temperature=value).astype(np.float64) for value in (0, 1, 2))
        assert {tuple(row) for row in cold} <= {tuple(row) for row in prior.component_mean.astype(np.float64)}
        np.testing.assert_allclose(hot - cold, 2 * (warm - cold), rtol=1e-4, atol=1e-5)

    @PRIORS
    @pytest.mark.parametrize(
        ("wish", "message"),
        [
            ({"seed": -1}, "seed"),
            ({"seed": MAX_SEED + 1}, "seed"),
            ({"seed": 0, "temperature": -1.0}, "temperature"),
            ({"seed": 0, "temperature": math.nan}, "temperature"),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, prior: Prior, wish: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            prior.draw(3, **wish)


class TestDensity:
    @PRIORS
    def test_integrates_to_one(self, prior: Prior) -> None:
        axis = np.linspace(-15, 15, 1501)
        plane = np.stack(np.meshgrid(axis, axis), axis=-1)
        density = prior.log_density(plane)
        assert density.dtype == np.float64
        assert density.shape == (1501, 1501)
        assert np.exp(density).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-6)

    def test_is_the_mean_of_the_components_densities(self) -> None:
        prior, z = mixture(), np.random.default_rng(1).standard_normal((3, 5, 2))
        mean, variance = prior.component_mean.astype(float), np.exp(prior.component_log_variance.astype(float))
        squared = (z[..., None, :] - mean) ** 2 / variance
        densities = np.exp(-0.5 * squared.sum(-1)) / np.sqrt((2 * np.pi * variance).prod(-1))
        np.testing.assert_allclose(prior.log_density(z), np.log(densities.mean(-1)), rtol=1e-9)

    def test_nothing_underflows_far_away(self) -> None:
        assert np.isfinite(mixture().log_density(np.full(2, 1e5))).all()

    def test_what_is_held_at_a_time_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        prior, z = mixture(), np.random.default_rng(1).standard_normal((50, 2))
        whole = prior.log_density(z)
        monkeypatch.setattr(module, "_AT_A_TIME", 12)
        np.testing.assert_allclose(prior.log_density(z), whole, rtol=1e-12)

    @PRIORS
    @pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
    def test_latents_of_another_dimension_are_refused(self, prior: Prior, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"shape \(\.\.\., 2\)"):
            prior.log_density(np.zeros(shape))


ZEROS = np.zeros((4, 2), np.float32)


class TestFile:
    def test_there_and_back_is_the_identity(self) -> None:
        there = mixture()
        back = read_prior(Path("tiny"), VAMP, 2, write_prior(there))
        assert isinstance(back, Mixture)
        assert back.components == 4
        np.testing.assert_array_equal(back.component_mean, there.component_mean)
        np.testing.assert_array_equal(back.component_log_variance, there.component_log_variance)

    def test_a_standard_normal_has_no_file(self) -> None:
        assert read_prior(Path("tiny"), PriorSpec(), 2, None) == StandardNormal(2)
        with pytest.raises(BundleError, match=r"^tiny/prior\.npz: a standard-normal prior has no components$"):
            read_prior(Path("tiny"), PriorSpec(), 2, write_prior(mixture()))

    def test_a_mixture_has_one(self) -> None:
        with pytest.raises(BundleError, match=r"^tiny/prior\.npz: missing$"):
            read_prior(Path("tiny"), VAMP, 2, None)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"mean": ZEROS}, r"holds \['mean'\] and not \['log_variance', 'mean'\]"),
            ({"mean": ZEROS, "log_variance": ZEROS, "weight": ZEROS}, "holds"),
            ({"mean": ZEROS[:3], "log_variance": ZEROS[:3]}, "mean has not the shape"),
            ({"mean": ZEROS, "log_variance": ZEROS[:, :1]}, "log_variance has not the shape"),
            ({"mean": ZEROS.astype(np.float64), "log_variance": ZEROS}, "mean has not the shape or type"),
            ({"mean": ZEROS, "log_variance": ZEROS + np.float32("nan")}, "holds NaN or infinity"),
            ({"mean": ZEROS + np.float32("inf"), "log_variance": ZEROS}, "holds NaN or infinity"),
            ({"mean": ZEROS.astype(object), "log_variance": ZEROS}, "not an npz file of arrays"),
        ],
    )
    def test_what_the_manifest_does_not_say_is_refused(self, arrays: dict[str, NDArray[Any]], message: str) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for its own options
        with pytest.raises(BundleError, match=rf"^tiny/prior\.npz: {message}"):
            read_prior(Path("tiny"), VAMP, 2, buffer.getvalue())

    def test_what_is_no_archive_is_refused(self) -> None:
        single = io.BytesIO()
        np.save(single, ZEROS)
        for data in (b"", b"PK\x03\x04", single.getvalue(), write_prior(mixture())[:-30]):
            with pytest.raises(BundleError, match="not an npz file of arrays"):
                read_prior(Path("tiny"), VAMP, 2, data)


@pytest.mark.parametrize(
    ("mean", "log_variance", "message"),
    [
        (ZEROS[0], ZEROS[0], "float32 of the shape"),
        (ZEROS[:0], ZEROS[:0], "float32 of the shape"),
        (ZEROS, ZEROS.astype(np.float64), "component_log_variance must be float32"),
        (ZEROS, ZEROS[:1], "one shape"),
        (ZEROS, ZEROS - np.float32("inf"), "component_log_variance must be finite"),
    ],
)
def test_what_is_no_mixture_is_refused(mean: Any, log_variance: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(mean, log_variance)
