"""The Bernoulli is torch.distributions', summed over the pixels of an image."""

import math

import pytest
import torch
from torch import Generator, Tensor, distributions

from model.likelihoods import Bernoulli
from tests.support.densities import log_density


def test_log_prob_is_that_of_torch_distributions(parameters: Tensor, images: Tensor) -> None:
    binary = images.round()
    expected = log_density(distributions.Bernoulli(logits=parameters), binary).sum((-3, -2, -1))
    torch.testing.assert_close(Bernoulli().log_prob(parameters, binary), expected)


@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_is_exact_where_a_sigmoid_saturates(logit: float) -> None:
    logits = torch.full((1, 1, 1, 1), logit, requires_grad=True)
    matching, opposite = torch.full_like(logits, float(logit > 0)), torch.full_like(logits, float(logit < 0))
    assert Bernoulli().log_prob(logits, matching).item() == pytest.approx(0, abs=1e-30)
    assert Bernoulli().log_prob(logits, opposite).item() == pytest.approx(-abs(logit))
    (gradient,) = torch.autograd.grad(Bernoulli().log_prob(logits, opposite).sum(), logits)
    assert gradient.item() == pytest.approx(-math.copysign(1, logit))


def test_probabilities_of_all_binary_images_sum_to_one(generator: Generator) -> None:
    every = torch.tensor([[i >> bit & 1 for bit in range(4)] for i in range(16)]).float().view(16, 1, 2, 2)
    logits = torch.randn(1, 1, 2, 2, generator=generator)
    assert Bernoulli().log_prob(logits, every).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_mean_is_the_probability(parameters: Tensor) -> None:
    torch.testing.assert_close(Bernoulli().mean(parameters), distributions.Bernoulli(logits=parameters).mean)
