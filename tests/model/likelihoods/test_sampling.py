"""What is drawn from a likelihood is distributed as its densities and its mean say."""

import math

import pytest
import torch
from torch import Generator

from model.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, DiscretizedLogistic, Gaussian, Likelihood
from tests.support.densities import within_four_errors

SHAPE, COUNT = (2, 2, 3), 20_000

# Each with its numbers a channel, and whether it is of 256 levels.
FAMILIES: list[tuple[Likelihood, int]] = [
    (Bernoulli(), 1),
    (ContinuousBernoulli(), 1),
    (Gaussian(0.3), 1),
    (DiscretizedLogistic(2), 1),
    (DiscretizedLogistic(None), 2),
    (Categorical(), 256),
]


def named(case: tuple[Likelihood, int]) -> str:
    return f"{type(case[0]).__name__}-{case[1]}"


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


@pytest.mark.parametrize("case", FAMILIES, ids=named)
def test_the_mean_is_that_of_the_likelihood(case: tuple[Likelihood, int], generator: Generator) -> None:
    likelihood, numbers = case
    parameters = 0.5 * torch.randn(1, numbers * SHAPE[0], *SHAPE[1:], generator=generator)
    images = likelihood.sample(parameters.expand(COUNT, -1, -1, -1), generator)
    assert images.shape == (COUNT, *SHAPE)
    with torch.no_grad():
        within_four_errors(images, likelihood.mean(parameters)[0].double())


@pytest.mark.parametrize("case", FAMILIES, ids=named)
def test_the_mean_log_density_has_no_slope(case: tuple[Likelihood, int], generator: Generator) -> None:
    """E[grad log p(x)] = 0 over draws of p itself, with respect to all parameters: scales and shapes are right too."""
    likelihood, numbers = case
    parameters = torch.randn(1, numbers * SHAPE[0], *SHAPE[1:], generator=generator).expand(COUNT // 4, -1, -1, -1)
    images = likelihood.sample(parameters, generator)
    variable = parameters.clone().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.log_prob(variable, images).sum(), variable)
    error = slope.double().std(0) / math.sqrt(len(slope))
    surprise = slope.double().mean(0)[error > 0] / error[error > 0]
    # A level that is rarely drawn has a slope that is far from normal, and its square larger on average.
    assert surprise.square().mean().item() == pytest.approx(1, abs=0.3 + 5 * math.sqrt(2 / surprise.numel()))


@pytest.mark.parametrize("logit", [-30.0, -1e-3, 0.0, 2.0, 1e4])
def test_a_continuous_bernoulli_is_drawn_at_any_logit(logit: float, generator: Generator) -> None:
    parameters = torch.full((COUNT, 1, 1, 1), logit)
    images = ContinuousBernoulli().sample(parameters, generator)
    assert images.min() >= 0
    assert images.max() <= 1
    within_four_errors(images, ContinuousBernoulli().mean(parameters[0]).double())


def test_a_gaussian_has_its_scale(generator: Generator) -> None:
    images = Gaussian(0.3).sample(torch.zeros(COUNT, *SHAPE), generator)
    within_four_errors((images - 0.5).square(), torch.tensor(0.09))


def test_levels_are_levels_and_bits_are_bits(generator: Generator) -> None:
    for likelihood, numbers in FAMILIES:
        parameters = torch.randn(50, numbers * SHAPE[0], *SHAPE[1:], generator=generator)
        images = likelihood.sample(parameters, generator)
        if isinstance(likelihood, Bernoulli):
            assert set(images.flatten().tolist()) == {0.0, 1.0}
        elif isinstance(likelihood, DiscretizedLogistic | Categorical):
            torch.testing.assert_close(images * 255, (images * 255).round(), rtol=0, atol=1e-4)
            assert images.min() >= 0
            assert images.max() <= 1
