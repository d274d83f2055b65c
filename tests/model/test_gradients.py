"""Two gradients of one expectation: the same on average, and far apart in variance."""

import math

import pytest
import torch
from torch import Generator, Tensor

from model.gradients import PosteriorGradient, reparameterization_gradient, score_function_gradient
from model.posteriors import DiagonalGaussian

IMAGES, DIMENSIONS = 3, 4
ESTIMATORS = ["reparameterization", "score function", "leave one out"]


def normal(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Quadratic:
    """f(z) = z^T A z + b^T z, whose expectation under a Gaussian is known."""

    def __init__(self, generator: Generator) -> None:
        matrix = normal(DIMENSIONS, DIMENSIONS, generator=generator)
        self.matrix, self.slope = matrix + matrix.T, normal(DIMENSIONS, generator=generator)

    def __call__(self, latents: Tensor) -> Tensor:
        return torch.einsum("...i,ij,...j->...", latents, self.matrix, latents) + latents @ self.slope

    def expected(self, q: DiagonalGaussian) -> Tensor:
        """E_q[f(z)], ``(N,)``."""
        return self(q.mean) + (q.log_variance.exp() * self.matrix.diagonal()).sum(-1)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


@pytest.fixture
def posterior(generator: Generator) -> DiagonalGaussian:
    return DiagonalGaussian(*normal(2, IMAGES, DIMENSIONS, generator=generator))


def estimate(which: str, function: Quadratic, q: DiagonalGaussian, noise: Tensor) -> PosteriorGradient:
    if which == "reparameterization":
        return reparameterization_gradient(function, q, noise)
    return score_function_gradient(function, q, noise, leave_one_out=which == "leave one out")


@pytest.mark.parametrize("which", ESTIMATORS)
def test_the_mean_is_the_gradient_of_the_expectation(
    which: str, posterior: DiagonalGaussian, generator: Generator
) -> None:
    """In closed form: 2 A mean + b, and sigma^2 A_dd."""
    function = Quadratic(generator)
    found = estimate(which, function, posterior, normal(50_000, IMAGES, DIMENSIONS, generator=generator))
    closed = PosteriorGradient(
        2 * posterior.mean @ function.matrix + function.slope,
        posterior.log_variance.exp() * function.matrix.diagonal(),
    )
    for samples, expected in zip(found, closed, strict=True):
        assert samples.shape == (50_000, IMAGES, DIMENSIONS)
        error = samples.std(0) / math.sqrt(len(samples))
        assert ((samples.mean(0) - expected).abs() < 4 * error).all()


def test_the_closed_form_is_what_autograd_says(posterior: DiagonalGaussian, generator: Generator) -> None:
    function = Quadratic(generator)
    leaves = DiagonalGaussian(*(parameter.clone().requires_grad_() for parameter in posterior))
    mean, log_variance = torch.autograd.grad(function.expected(leaves).sum(), list(leaves))
    torch.testing.assert_close(mean, 2 * posterior.mean @ function.matrix + function.slope)
    torch.testing.assert_close(log_variance, posterior.log_variance.exp() * function.matrix.diagonal())


def test_a_sample_of_the_reparameterization_is_its_derivative(
    posterior: DiagonalGaussian, generator: Generator
) -> None:
    function = Quadratic(generator)
    noise = normal(5, IMAGES, DIMENSIONS, generator=generator)
    found = reparameterization_gradient(function, posterior, noise)
    for sample in range(5):
        leaves = DiagonalGaussian(*(parameter.clone().requires_grad_() for parameter in posterior))
        value = function(leaves.reparameterize(noise[sample])).sum()
        for expected, of_all in zip(torch.autograd.grad(value, list(leaves)), found, strict=True):
            torch.testing.assert_close(of_all[sample], expected)


def test_a_sample_of_the_score_function_is_the_value_times_the_derivative_of_the_log_density(
    posterior: DiagonalGaussian, generator: Generator
) -> None:
    function = Quadratic(generator)
    noise = normal(5, IMAGES, DIMENSIONS, generator=generator)
    found = score_function_gradient(function, posterior, noise)
    for sample in range(5):
        latent = posterior.reparameterize(noise[sample])
        leaves = DiagonalGaussian(*(parameter.clone().requires_grad_() for parameter in posterior))
        score = torch.autograd.grad(leaves.log_density(latent).sum(), list(leaves))
        for expected, of_all in zip(score, found, strict=True):
            torch.testing.assert_close(of_all[sample], function(latent)[:, None] * expected)


def test_leaving_one_out_subtracts_the_mean_of_the_others(posterior: DiagonalGaussian, generator: Generator) -> None:
    function = Quadratic(generator)
    noise = normal(4, IMAGES, DIMENSIONS, generator=generator)
    values = function(posterior.reparameterize(noise))
    found = score_function_gradient(function, posterior, noise, leave_one_out=True)
    sigma = (0.5 * posterior.log_variance).exp()
    for sample in range(4):
        others = values[[other for other in range(4) if other != sample]].mean(0)
        expected = (values[sample] - others)[:, None] * noise[sample] / sigma
        torch.testing.assert_close(found.mean[sample], expected)


def test_a_baseline_makes_a_constant_cost_nothing(posterior: DiagonalGaussian, generator: Generator) -> None:
    noise = normal(10, IMAGES, DIMENSIONS, generator=generator)

    def constant(latents: Tensor) -> Tensor:
        return torch.full(latents.shape[:-1], 1000.0, dtype=latents.dtype)

    found = score_function_gradient(constant, posterior, noise, leave_one_out=True)
    assert all(torch.equal(part, torch.zeros_like(part)) for part in found)
    assert score_function_gradient(constant, posterior, noise).mean.std() > 100


def test_the_score_function_needs_no_slope(generator: Generator) -> None:
    """P(z_0 > 0) has one in closed form: the normal density at zero. What is sampled has none anywhere."""

    def positive(latents: Tensor) -> Tensor:
        return (latents[..., 0] > 0).double()

    posterior = DiagonalGaussian(*torch.tensor([[[-0.5], [0.0], [1.0]], [[0.5], [0.0], [-0.5]]], dtype=torch.float64))
    noise = normal(50_000, 3, 1, generator=generator)
    found = score_function_gradient(positive, posterior, noise, leave_one_out=True).mean[..., 0]
    sigma = (0.5 * posterior.log_variance[:, 0]).exp()
    expected = (-0.5 * (posterior.mean[:, 0] / sigma).square()).exp() / (sigma * math.sqrt(2 * math.pi))
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - expected).abs() < 4 * error).all()


class TestVariance:
    """f(z) = -|z - 1|^2 / 2 under N(0, I): the gradient with respect to each mean is 1, whatever D."""

    SAMPLES = 40_000

    def variance(self, which: str, dimensions: int, generator: Generator) -> tuple[float, float]:
        """Of the first dimension's gradient, with its standard error."""
        q = DiagonalGaussian(*torch.zeros(2, 1, dimensions, dtype=torch.float64))

        def function(latents: Tensor) -> Tensor:
            return -0.5 * (latents - 1).square().sum(-1)

        noise = normal(self.SAMPLES, 1, dimensions, generator=generator)
        if which == "reparameterization":
            gradient = reparameterization_gradient(function, q, noise).mean
        else:
            gradient = score_function_gradient(function, q, noise, leave_one_out=which == "leave one out").mean
        squares = (gradient[:, 0, 0] - 1).square()
        return squares.mean().item(), squares.std().item() / math.sqrt(self.SAMPLES)

    @pytest.mark.parametrize("dimensions", [1, 4, 16, 64])
    def test_is_the_closed_form(self, dimensions: int, generator: Generator) -> None:
        """1; (D - 1)^2 + 5.5 (D - 1) + 7.5; and with a baseline, 1.5 D + 3 and what the baseline itself varies by."""
        rest = dimensions - 1
        expected = {
            "reparameterization": 1.0,
            "score function": rest**2 + 5.5 * rest + 7.5,
            "leave one out": 1.5 * dimensions + 3 + 1.5 * dimensions / (self.SAMPLES - 1),
        }
        for which in ESTIMATORS:
            value, error = self.variance(which, dimensions, generator)
            assert abs(value - expected[which]) < 4 * error, which

    def test_of_the_score_function_is_larger_and_grows(self, generator: Generator) -> None:
        for dimensions in (1, 8, 64):
            smallest, baseline, largest = (
                self.variance(which, dimensions, generator)[0]
                for which in ("reparameterization", "leave one out", "score function")
            )
            assert smallest < baseline < largest
        small, _ = self.variance("score function", 8, generator)
        large, _ = self.variance("score function", 64, generator)
        assert large > 30 * small


def test_a_single_sample_has_no_others(posterior: DiagonalGaussian, generator: Generator) -> None:
    noise = normal(1, IMAGES, DIMENSIONS, generator=generator)
    with pytest.raises(ValueError, match="2 samples or more"):
        score_function_gradient(Quadratic(generator), posterior, noise, leave_one_out=True)


def test_no_graph_is_left(generator: Generator) -> None:
    leaves = DiagonalGaussian(*torch.zeros(2, IMAGES, DIMENSIONS, dtype=torch.float64, requires_grad=True).unbind())
    noise = normal(2, IMAGES, DIMENSIONS, generator=generator)
    for which in ESTIMATORS:
        assert not any(part.requires_grad for part in estimate(which, Quadratic(generator), leaves, noise))
