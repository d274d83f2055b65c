"""The diagonal Gaussian is torch.distributions' Normal with a bounded log_variance = log sigma^2."""

import pytest
import torch
from torch import Generator
from torch.distributions import Normal, kl_divergence

from model.divergences import monte_carlo_kl
from model.posteriors import LOG_VARIANCE_LIMIT, DiagonalGaussian, soft_bound, standard_normal_log_density
from tests.support.densities import log_density


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


@pytest.fixture
def posterior(generator: Generator) -> DiagonalGaussian:
    mean, log_variance = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    return DiagonalGaussian(mean, log_variance)


def normal(posterior: DiagonalGaussian) -> Normal:
    """The same distribution by torch; its scale is a standard deviation, hence the half."""
    return Normal(posterior.mean, (0.5 * posterior.log_variance).exp())


class TestSoftBound:
    def test_rises_stays_inside_and_is_odd(self) -> None:
        raw = torch.linspace(-60, 60, 2001)
        bounded = soft_bound(raw)
        assert (bounded.diff() > 0).all()
        assert (bounded.abs() <= LOG_VARIANCE_LIMIT).all()
        torch.testing.assert_close(bounded, -bounded.flip(0))

    def test_is_near_the_identity_where_posteriors_live(self) -> None:
        raw = torch.linspace(-2, 2, 101)
        torch.testing.assert_close(soft_bound(raw), raw, rtol=0.01, atol=0)

    def test_has_a_gradient_up_to_where_float32_has_no_number_below_the_limit(self) -> None:
        raw = LOG_VARIANCE_LIMIT * torch.tensor([-10.0, -9.0, 9.0, 10.0])
        raw.requires_grad_()
        (gradient,) = torch.autograd.grad(soft_bound(raw).sum(), raw)
        assert (gradient > 0).tolist() == [False, True, True, False]

    def test_cuts_no_gradient(self) -> None:
        """A clamp has gradient 0 at all these values but the middle ones."""
        raw = torch.tensor([-80.0, -40.0, -14.0, 0.0, 14.0, 40.0, 80.0], requires_grad=True)
        (gradient,) = torch.autograd.grad(soft_bound(raw).sum(), raw)
        assert (gradient > 0).all()
        assert (gradient <= 1).all()

    @pytest.mark.parametrize("raw", [-1e30, 1e30, -float("inf"), float("inf")])
    def test_keeps_every_density_finite(self, raw: float) -> None:
        posterior = DiagonalGaussian.from_raw(torch.tensor([[0.5, raw]]))
        noise = torch.ones(1, 1)
        assert posterior.reparameterize(noise).isfinite().all()
        assert posterior.kl().isfinite().all()
        assert posterior.log_density(posterior.reparameterize(noise)).isfinite().all()


class TestDiagonalGaussian:
    def test_the_noise_of_a_latent_is_what_it_was_drawn_from(
        self, posterior: DiagonalGaussian, generator: Generator
    ) -> None:
        noise = torch.randn(7, 5, 3, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(posterior.noise(posterior.draw(noise).latent), noise)

    def test_the_first_half_of_the_raw_output_is_the_mean(self) -> None:
        raw = torch.tensor([[1.0, 2.0, 0.1, -0.2]])
        posterior = DiagonalGaussian.from_raw(raw)
        assert torch.equal(posterior.mean, raw[:, :2])
        assert torch.equal(posterior.log_variance, soft_bound(raw[:, 2:]))

    def test_samples_have_its_mean_and_variance(self, posterior: DiagonalGaussian, generator: Generator) -> None:
        count = 20_000
        noise = torch.randn(count, *posterior.mean.shape, generator=generator, dtype=torch.float64)
        samples = posterior.reparameterize(noise)
        variance = posterior.log_variance.exp()
        assert ((samples.mean(0) - posterior.mean).abs() < 4.5 * (variance / count).sqrt()).all()
        # The variance of a sample variance is 2 sigma^4 / (n - 1).
        assert ((samples.var(0) - variance).abs() < 4.5 * variance * (2 / (count - 1)) ** 0.5).all()

    def test_samples_carry_gradients_to_both_parameters(self) -> None:
        mean = torch.zeros(1, 2, requires_grad=True)
        log_variance = torch.zeros(1, 2, requires_grad=True)
        noise = torch.tensor([[3.0, -1.0]])
        sample = DiagonalGaussian(mean, log_variance).reparameterize(noise)
        of_mean, of_log_variance = torch.autograd.grad(sample.sum(), (mean, log_variance))
        assert torch.equal(of_mean, torch.ones(1, 2))
        torch.testing.assert_close(of_log_variance, 0.5 * noise)  # d sigma / d log sigma^2 = sigma / 2

    def test_log_density_is_that_of_torch_distributions(
        self, posterior: DiagonalGaussian, generator: Generator
    ) -> None:
        latents = torch.randn(7, *posterior.mean.shape, generator=generator, dtype=torch.float64)
        expected = log_density(normal(posterior), latents).sum(-1)
        assert expected.shape == (7, 5)
        torch.testing.assert_close(posterior.log_density(latents), expected)
        torch.testing.assert_close(posterior.log_density(latents[0]), expected[0])

    def test_kl_is_that_of_torch_distributions_and_of_monte_carlo(
        self, posterior: DiagonalGaussian, generator: Generator
    ) -> None:
        kl = posterior.kl()
        torch.testing.assert_close(kl, kl_divergence(normal(posterior), Normal(0.0, 1.0)))
        noise = torch.randn(20_000, *posterior.mean.shape, generator=generator, dtype=torch.float64)
        samples = posterior.reparameterize(noise)
        estimate, error = monte_carlo_kl(samples, posterior.log_density, standard_normal_log_density)
        assert ((estimate - kl.sum(-1)).abs() < 4 * error).all()


def test_the_prior_is_the_standard_normal(generator: Generator) -> None:
    latents = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    expected = log_density(Normal(0.0, 1.0), latents).sum(-1)
    torch.testing.assert_close(standard_normal_log_density(latents), expected)
