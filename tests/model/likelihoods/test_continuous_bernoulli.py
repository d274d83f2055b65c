"""The continuous Bernoulli is a density, torch.distributions' own, and as exact at lambda = 1/2 as anywhere."""

import numpy as np
import pytest
import torch
from torch import Tensor, distributions

from model.likelihoods import ContinuousBernoulli
from model.likelihoods.continuous_bernoulli import log_normalizer
from tests.support.densities import log_density

# Some on either side of where the series is taken, and 0 itself.
LOGITS = [0.0, 1e-8, -1e-4, 0.01, -0.3, 0.499, -0.501, 1.0, -3.0, 10.0, -50.0]


def at(logits: list[float]) -> Tensor:
    """One pixel an image, ``(N, 1, 1, 1)``."""
    return torch.tensor(logits, dtype=torch.float64).view(-1, 1, 1, 1)


def quadrature() -> tuple[Tensor, Tensor]:
    """Points of [0, 1] ``(M, 1, 1, 1, 1)`` and their weights ``(M, 1)``, by Gauss and Legendre."""
    points, weights = np.polynomial.legendre.leggauss(200)
    return torch.from_numpy((points + 1) / 2).view(-1, 1, 1, 1, 1), torch.from_numpy(weights / 2).view(-1, 1)


def test_log_prob_is_that_of_torch_distributions(parameters: Tensor, images: Tensor) -> None:
    logits, pixels = parameters.double(), images.double()
    expected = log_density(distributions.ContinuousBernoulli(logits=logits), pixels).sum((-3, -2, -1))
    torch.testing.assert_close(ContinuousBernoulli().log_prob(logits, pixels), expected, rtol=1e-9, atol=1e-6)


def test_mean_is_that_of_torch_distributions(parameters: Tensor) -> None:
    expected = distributions.ContinuousBernoulli(logits=parameters.double()).mean
    torch.testing.assert_close(ContinuousBernoulli().mean(parameters.double()), expected, rtol=0, atol=1e-6)


def test_densities_integrate_to_one() -> None:
    points, weights = quadrature()
    densities = ContinuousBernoulli().log_prob(at(LOGITS), points).exp()
    torch.testing.assert_close(
        (weights * densities).sum(0), torch.ones(len(LOGITS), dtype=torch.float64), rtol=1e-7, atol=0
    )


def test_mean_is_the_expectation() -> None:
    points, weights = quadrature()
    densities = ContinuousBernoulli().log_prob(at(LOGITS), points).exp()
    expected = (weights * densities * points.view(-1, 1)).sum(0)
    torch.testing.assert_close(ContinuousBernoulli().mean(at(LOGITS)).flatten(), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("pixel", [0.0, 0.3, 1.0])
def test_the_gradient_is_the_pixel_less_the_mean(pixel: float) -> None:
    """As of every exponential family, in its natural parameter; in float32, next to 1/2 and far from it too."""
    logits = torch.tensor([*LOGITS, -1e4, 1e4]).view(-1, 1, 1, 1).requires_grad_()
    likelihood = ContinuousBernoulli()
    (gradient,) = torch.autograd.grad(likelihood.log_prob(logits, torch.full_like(logits, pixel)).sum(), logits)
    torch.testing.assert_close(gradient, pixel - likelihood.mean(logits).detach(), rtol=0, atol=1e-6)


def test_the_series_meets_the_formula() -> None:
    logits = torch.linspace(0.01, 0.6, 200, dtype=torch.float64)
    formula = (logits / torch.tanh(logits / 2)).log()
    torch.testing.assert_close(log_normalizer(logits), formula, rtol=0, atol=1e-8)
    torch.testing.assert_close(log_normalizer(-logits), log_normalizer(logits), rtol=0, atol=0)
    mean = 1 / -torch.expm1(-logits) - 1 / logits
    torch.testing.assert_close(ContinuousBernoulli().mean(logits), mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(ContinuousBernoulli().mean(-logits), 1 - mean, rtol=0, atol=1e-8)


def test_the_mean_is_greyer_than_the_bernoullis(parameters: Tensor) -> None:
    true, naive = ContinuousBernoulli().mean(parameters), torch.sigmoid(parameters)
    assert ((true - 0.5).abs() <= (naive - 0.5).abs()).all()
