"""Which Gaussian is nearest depends on the direction of the divergence: Bishop's figures 10.2 and 10.3, as laws."""

import math

import pytest
import torch
from torch import Generator, Tensor

from model.divergences import kl_between_gaussians
from model.gaussian_fits import (
    Family,
    GaussianFit,
    GaussianMixture,
    forward_fit,
    reverse_fit,
    reverse_fit_to_gaussian,
    reverse_kl,
)

FAMILIES: list[Family] = ["isotropic", "diagonal", "full"]


def gaussian(dimension: int, seed: int) -> GaussianFit:
    """A correlated Gaussian."""
    generator = Generator().manual_seed(seed)
    factor = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    mean = torch.randn(dimension, generator=generator, dtype=torch.float64)
    return GaussianFit(mean, factor @ factor.T + 0.1 * torch.eye(dimension))


def wide(dimension: int) -> GaussianFit:
    return GaussianFit(torch.zeros(dimension).double(), 2 * torch.eye(dimension).double())


def member(family: Family, near: GaussianFit, generator: Generator, distance: float) -> GaussianFit:
    """A random neighbor within the family."""
    size = len(near.mean)
    mean = near.mean + distance * torch.randn(size, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(near.covariance)
    match family:
        case "isotropic":
            factor = factor * math.exp(distance * torch.randn((), generator=generator).item())
        case "diagonal":
            factor = factor * (distance * torch.randn(size, generator=generator, dtype=torch.float64)).exp()
        case "full":
            factor = factor @ (
                torch.eye(size) + distance * torch.randn(size, size, generator=generator, dtype=torch.float64)
            )
    return GaussianFit(mean, factor @ factor.T)


@pytest.mark.parametrize("seed", [0, 1, 2])
class TestCorrelatedGaussian:
    def test_reverse_variances_are_inverse_precisions(self, seed: int) -> None:
        target = gaussian(3, seed)
        precision = torch.linalg.inv(target.covariance)
        diagonal = reverse_fit_to_gaussian(*target, "diagonal")
        torch.testing.assert_close(diagonal.covariance, (1 / precision.diagonal()).diag())
        isotropic = reverse_fit_to_gaussian(*target, "isotropic")
        torch.testing.assert_close(isotropic.covariance, 3 / precision.trace() * torch.eye(3).double())
        assert torch.equal(diagonal.mean, target.mean)

    def test_forward_variances_are_those_of_the_target(self, seed: int) -> None:
        target = gaussian(3, seed)
        variances = target.covariance.diagonal()
        torch.testing.assert_close(forward_fit(*target, "diagonal").covariance, variances.diag())
        isotropic = forward_fit(*target, "isotropic").covariance
        torch.testing.assert_close(isotropic, variances.mean() * torch.eye(3).double())

    def test_reverse_is_too_narrow(self, seed: int) -> None:
        """Zero-forcing: each variance is that of a dimension given all others."""
        target = gaussian(3, seed)
        narrow = reverse_fit_to_gaussian(*target, "diagonal").covariance.diagonal()
        assert (narrow < target.covariance.diagonal()).all()

    def test_the_full_family_holds_the_target(self, seed: int) -> None:
        target = gaussian(3, seed)
        for fit in (forward_fit(*target, "full"), reverse_fit_to_gaussian(*target, "full")):
            torch.testing.assert_close(fit.covariance, target.covariance)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_descent_finds_the_closed_form(self, family: Family, seed: int) -> None:
        target = gaussian(2, seed)
        found = reverse_fit(target.log_density, wide(2), family)
        expected = reverse_fit_to_gaussian(*target, family)
        torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_no_member_of_the_family_is_nearer(self, family: Family, seed: int) -> None:
        target, generator = gaussian(3, seed), Generator().manual_seed(seed)
        forward, reverse = forward_fit(*target, family), reverse_fit_to_gaussian(*target, family)
        least_forward = kl_between_gaussians(*target, *forward)
        least_reverse = kl_between_gaussians(*reverse, *target)
        for distance in (0.01, 0.3):
            for _ in range(20):
                assert kl_between_gaussians(*target, *member(family, forward, generator, distance)) > least_forward
                assert kl_between_gaussians(*member(family, reverse, generator, distance), *target) > least_reverse

    def test_quadrature_is_the_closed_form(self, seed: int) -> None:
        """A Gaussian's log density is a polynomial."""
        p, q = gaussian(2, seed), gaussian(2, seed + 10)
        found = reverse_kl(p.log_density, q, nodes=3)
        torch.testing.assert_close(found, kl_between_gaussians(*q, *p), rtol=1e-10, atol=1e-10)


MODES = torch.tensor([[-2.5, -1.0], [2.5, 1.0]], dtype=torch.float64)


@pytest.fixture
def mixture() -> GaussianMixture:
    """Two modes far apart, of unlike shape and weight."""
    covariances = torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.8]]], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.6, 0.4], dtype=torch.float64), MODES, covariances)


class TestMixture:
    def test_its_density_has_its_moments_and_sums_to_one(self, mixture: GaussianMixture) -> None:
        axis = torch.linspace(-9, 9, 400, dtype=torch.float64)
        points = torch.cartesian_prod(axis, axis)
        mass = mixture.log_density(points).exp() * (axis[1] - axis[0]) ** 2
        assert mass.sum().item() == pytest.approx(1, abs=1e-9)
        mean, covariance = mixture.moments()
        torch.testing.assert_close(mass @ points, mean, rtol=0, atol=1e-9)
        centered = points - mean
        torch.testing.assert_close(centered.T * mass @ centered, covariance, rtol=0, atol=1e-9)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_forward_matches_the_moments_and_covers_both_modes(self, family: Family, mixture: GaussianMixture) -> None:
        mean, covariance = mixture.moments()
        fit = forward_fit(mean, covariance, family)
        assert torch.equal(fit.mean, mean)
        torch.testing.assert_close(fit.covariance.trace(), covariance.trace())
        if family != "isotropic":
            torch.testing.assert_close(fit.covariance.diagonal(), covariance.diagonal())
        # Zero-avoiding: both modes are likely under it, and so is the empty place between them.
        assert (fit.log_density(MODES) > fit.log_density(mean) - 2).all()
        assert mixture.log_density(mean) < mixture.log_density(MODES).min() - 3

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("which", [0, 1])
    def test_reverse_has_an_optimum_at_each_mode(self, which: int, family: Family, mixture: GaussianMixture) -> None:
        """Far from the other mode the target is weight * N, whose nearest Gaussian is known, at log(1 / weight)."""
        start = GaussianFit(MODES[which] + 0.5, torch.eye(2).double())
        fit = reverse_fit(mixture.log_density, start, family)
        alone = reverse_fit_to_gaussian(MODES[which], mixture.covariances[which], family)
        torch.testing.assert_close(fit.mean, alone.mean, rtol=0, atol=0.02)
        torch.testing.assert_close(fit.covariance, alone.covariance, rtol=0, atol=0.02)
        least = kl_between_gaussians(*alone, MODES[which], mixture.covariances[which]) - mixture.weights[which].log()
        assert reverse_kl(mixture.log_density, fit).item() == pytest.approx(least.item(), abs=0.02)
        # Zero-forcing: the other mode is as good as impossible.
        assert fit.log_density(MODES[1 - which]) < -10

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_local_optimum_has_no_better_neighbor(self, which: int, mixture: GaussianMixture) -> None:
        fit = reverse_fit(mixture.log_density, GaussianFit(MODES[which], torch.eye(2).double()), "full")
        least, generator = reverse_kl(mixture.log_density, fit), Generator().manual_seed(which)
        for _ in range(30):
            assert reverse_kl(mixture.log_density, member("full", fit, generator, 0.02)) > least

    def test_the_two_optima_differ_by_their_weights(self, mixture: GaussianMixture) -> None:
        first, second = (
            reverse_kl(
                mixture.log_density, reverse_fit(mixture.log_density, GaussianFit(mode, torch.eye(2).double()), "full")
            )
            for mode in MODES
        )
        assert (second - first).item() == pytest.approx(math.log(0.6 / 0.4), abs=0.01)

    def test_each_direction_is_best_by_its_own_measure(self, mixture: GaussianMixture) -> None:
        forward = forward_fit(*mixture.moments(), "full")
        reverse = reverse_fit(mixture.log_density, GaussianFit(MODES[0], torch.eye(2).double()), "full")
        assert reverse_kl(mixture.log_density, reverse) < reverse_kl(mixture.log_density, forward)
        # KL(p || q) is minus E_p[log q] and a constant; log q is quadratic, so the moments are all of p that it needs.
        assert cross_entropy(mixture, forward) < cross_entropy(mixture, reverse)

    def test_an_unnormalized_target_has_the_same_fit(self, mixture: GaussianMixture) -> None:
        def shifted(points: Tensor) -> Tensor:
            return mixture.log_density(points) + 100

        start = GaussianFit(MODES[0], torch.eye(2).double())
        one, other = reverse_fit(mixture.log_density, start, "full"), reverse_fit(shifted, start, "full")
        torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.covariance, other.covariance, rtol=0, atol=1e-5)


def cross_entropy(mixture: GaussianMixture, q: GaussianFit) -> float:
    """-E_p[log q]."""
    mean, covariance = mixture.moments()
    expected = q.log_density(mean) - 0.5 * (torch.linalg.inv(q.covariance) @ covariance).trace()
    return -float(expected)


def test_a_covariance_that_is_none_is_refused() -> None:
    indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(RuntimeError, match="positive-definite"):
        reverse_fit_to_gaussian(torch.zeros(2), indefinite, "diagonal")
