"""The divergences are what torch.distributions says, what Monte Carlo says, and what their definition promises."""

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from model.divergences import kl_between_gaussians, kl_to_standard_normal, monte_carlo_kl
from tests.support.densities import log_density

GENERATOR_SEEDS = [0, 1, 2]


def gaussian(dimension: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A random mean and a well-conditioned covariance, float64."""
    mean = torch.randn(dimension, generator=generator, dtype=torch.float64)
    factor = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return mean, factor @ factor.T / dimension + 0.3 * torch.eye(dimension, dtype=torch.float64)


def block_diagonal(first: Tensor, second: Tensor) -> Tensor:
    """The covariance of two independent vectors."""
    beside = first.new_zeros(len(first), len(second))
    return torch.cat([torch.cat([first, beside], 1), torch.cat([beside.T, second], 1)])


@pytest.fixture(params=GENERATOR_SEEDS)
def generator(request: pytest.FixtureRequest) -> Generator:
    return Generator().manual_seed(request.param)


class TestToStandardNormal:
    def test_is_that_of_torch_distributions(self, generator: Generator) -> None:
        mean, log_variance = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64).mul(3)
        expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
        torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)

    def test_log_variance_is_log_sigma_squared(self) -> None:
        """With sigma = 2 and mean 0, by hand: (4 - 1 - log 4) / 2. A formula that took it for log sigma gives 0.31."""
        sigma = torch.tensor(2.0)
        torch.testing.assert_close(
            kl_to_standard_normal(torch.tensor(0.0), sigma.square().log()), torch.tensor(1.5) - sigma.log()
        )

    def test_is_zero_for_the_standard_normal_alone(self, generator: Generator) -> None:
        zero = torch.zeros(4, dtype=torch.float64)
        assert torch.equal(kl_to_standard_normal(zero, zero), zero)
        other = torch.randn(4, generator=generator, dtype=torch.float64)
        assert (kl_to_standard_normal(other, zero) > 0).all()
        assert (kl_to_standard_normal(zero, other) > 0).all()

    def test_is_the_full_formula_summed_over_independent_dimensions(self, generator: Generator) -> None:
        mean, log_variance = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        identity = torch.eye(6, dtype=torch.float64)
        full = kl_between_gaussians(mean, log_variance.exp().diag(), torch.zeros_like(mean), identity)
        torch.testing.assert_close(kl_to_standard_normal(mean, log_variance).sum(), full)


class TestBetweenGaussians:
    def test_is_that_of_torch_distributions(self, generator: Generator) -> None:
        (mean_q, covariance_q), (mean_p, covariance_p) = gaussian(4, generator), gaussian(4, generator)
        expected = kl_divergence(MultivariateNormal(mean_q, covariance_q), MultivariateNormal(mean_p, covariance_p))
        torch.testing.assert_close(kl_between_gaussians(mean_q, covariance_q, mean_p, covariance_p), expected)

    def test_batches_are_its_leading_axes(self, generator: Generator) -> None:
        pairs = [(*gaussian(3, generator), *gaussian(3, generator)) for _ in range(4)]
        batch = [torch.stack(part) for part in zip(*pairs, strict=True)]
        each = torch.stack([kl_between_gaussians(*pair) for pair in pairs])
        torch.testing.assert_close(kl_between_gaussians(*batch), each)

    def test_is_positive_unless_the_two_are_equal(self, generator: Generator) -> None:
        mean, covariance = gaussian(5, generator)
        assert kl_between_gaussians(mean, covariance, mean, covariance).abs() < 1e-12
        assert kl_between_gaussians(mean, covariance, mean + 0.01, covariance) > 0
        assert kl_between_gaussians(mean, covariance, mean, 1.01 * covariance) > 0
        assert kl_between_gaussians(mean, covariance, *gaussian(5, generator)) > 0

    def test_is_additive_over_independent_blocks(self, generator: Generator) -> None:
        blocks = [(*gaussian(size, generator), *gaussian(size, generator)) for size in (2, 3)]
        joint = kl_between_gaussians(
            torch.cat([block[0] for block in blocks]),
            block_diagonal(*(block[1] for block in blocks)),
            torch.cat([block[2] for block in blocks]),
            block_diagonal(*(block[3] for block in blocks)),
        )
        torch.testing.assert_close(joint, torch.stack([kl_between_gaussians(*block) for block in blocks]).sum())

    def test_is_the_same_in_other_coordinates(self, generator: Generator) -> None:
        """An invertible map of the space changes neither divergence."""
        (mean_q, covariance_q), (mean_p, covariance_p) = gaussian(4, generator), gaussian(4, generator)
        change = torch.randn(4, 4, generator=generator, dtype=torch.float64) + 3 * torch.eye(4, dtype=torch.float64)
        moved = kl_between_gaussians(
            change @ mean_q, change @ covariance_q @ change.T, change @ mean_p, change @ covariance_p @ change.T
        )
        torch.testing.assert_close(moved, kl_between_gaussians(mean_q, covariance_q, mean_p, covariance_p))

    def test_refuses_what_is_no_covariance(self) -> None:
        mean, indefinite = torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])
        with pytest.raises(RuntimeError, match="not positive-definite"):
            kl_between_gaussians(mean, indefinite, mean, torch.eye(2))


class TestMonteCarlo:
    def test_closed_forms_are_within_four_standard_errors(self, generator: Generator) -> None:
        (mean_q, covariance_q), (mean_p, covariance_p) = gaussian(3, generator), gaussian(3, generator)
        q, p = MultivariateNormal(mean_q, covariance_q), MultivariateNormal(mean_p, covariance_p)
        noise = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
        samples = mean_q + noise @ torch.linalg.cholesky(covariance_q).T
        estimate, error = monte_carlo_kl(samples, q.log_prob, p.log_prob)
        exact = kl_between_gaussians(mean_q, covariance_q, mean_p, covariance_p)
        assert 0 < error < 0.1 * exact
        assert (estimate - exact).abs() < 4 * error

    def test_its_standard_error_is_the_spread_of_its_estimates(self) -> None:
        q, p = Normal(0.5, 1.0), Normal(0.0, 2.0)
        noise = torch.randn(100, 400, generator=Generator().manual_seed(0))
        estimates, errors = monte_carlo_kl(0.5 + noise, q.log_prob, p.log_prob)
        torch.testing.assert_close(estimates.std(), errors.mean(), rtol=0.15, atol=0)

    def test_keeps_the_batch(self) -> None:
        standard = Normal(0.0, 1.0)
        samples = torch.zeros(2, 5, 3)

        def log_q(latent: Tensor) -> Tensor:
            return log_density(standard, latent).sum(-1)

        estimate, error = monte_carlo_kl(samples, log_q, log_q)
        assert torch.equal(estimate, torch.zeros(5))
        assert torch.equal(error, torch.zeros(5))

    @pytest.mark.parametrize("count", [0, 1])
    def test_one_sample_has_no_standard_error(self, count: int) -> None:
        with pytest.raises(ValueError, match=f"2 samples or more, not {count}"):
            monte_carlo_kl(torch.zeros(count, 3), torch.Tensor.sum, torch.Tensor.sum)
