"""The continuous Bernoulli (Loaiza-Ganem and Cunningham, 2019, "The continuous Bernoulli: fixing a pervasive error in
variational autoencoders"): a Bernoulli on grey values lacks a normalizer, and with it becomes a density on [0, 1].

With the logit l of lambda, which is its natural parameter, the density is ``exp(x l) l / (exp(l) - 1)``.
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from model.likelihoods.base import FamilySettings, Support, uniform

# Below this |logit| normalizer and mean are 0/0 or differences of large numbers, and their Taylor series are exact:
# what these leave out is less than 1e-8 there.
_NEAR = 0.5
# Means closer to black or white than this are begun at this: what is always black in the training images need not
# always be, and a logit of -1000 would cost a nat for a thousandth of white.
_EDGE = 0.01
_HALVINGS = 50


class ContinuousBernoulliSettings(FamilySettings):
    """Independent pixels in [0, 1], of which the likelihood is a density."""

    support: ClassVar[Support] = "interval"
    family: Literal["continuous-bernoulli"]


class ContinuousBernoulli(nn.Module):
    """Pixels CB(sigmoid(parameters)), a density on [0, 1]-scaled values; the parameters ``(..., C, H, W)`` are logits.

    The mean is not ``sigmoid(logit)``, but nearer to 1/2.
    """

    def mean(self, parameters: Tensor) -> Tensor:
        """``1 / (1 - exp(-l)) - 1 / l``, the true mean; 1/2 at l = 0."""
        return _mean(parameters)

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """``x l - softplus(l) + log C(l)`` in nats, summed: a Bernoulli's, and what makes a density of it."""
        return (images * parameters - F.softplus(parameters) + log_normalizer(parameters)).sum((-3, -2, -1))

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """By the inverse of its distribution function, F(x) = (exp(l x) - 1) / (exp(l) - 1) at logit l."""
        noise = uniform(parameters, generator)
        # Where l > 0 exp(l) may overflow: there the mirrored distribution, which has -l, is drawn.
        falling = -parameters.abs()
        dark = torch.where(falling < 0, torch.log1p(noise * torch.expm1(falling)) / falling, noise)
        return torch.where(parameters > 0, 1 - dark, dark).clamp(0, 1)

    def parameters_for(self, mean_image: Tensor) -> Tensor:
        """The logits whose mean is the mean image, found by bisection; means are kept within [0.01, 0.99]."""
        wanted = mean_image.double().clamp(_EDGE, 1 - _EDGE)
        # The mean is closer than 1 / |l| to black or white.
        low, high = torch.full_like(wanted, -1 / _EDGE), torch.full_like(wanted, 1 / _EDGE)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = _mean(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(mean_image.dtype)


def log_normalizer(logits: Tensor) -> Tensor:
    """log C of the same shape, in nats: ``C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda) = l / tanh(l / 2)``, and 2 at
    lambda = 1/2.

    >>> [round(float(log_c.exp()), 2) for log_c in log_normalizer(torch.tensor([0.0, 1e-4, -1e4]))]
    [2.0, 2.0, 10000.0]
    """
    near = logits.abs() < _NEAR
    square = torch.where(near, logits, 0.0).square()
    series = square * (1 / 12 - square * (7 / 1440 - square * (31 / 90720 - square * 127 / 4838400)))
    # What is not taken must be finite all the same: the gradient of where() is 0 * its gradient.
    far = torch.where(near, 1.0, logits.abs())
    exact = far.log() + torch.log1p((-far).exp()) - (-torch.expm1(-far)).log()
    return torch.where(near, math.log(2) + series, exact)


def _mean(logits: Tensor) -> Tensor:
    near = logits.abs() < _NEAR
    small = torch.where(near, logits, 0.0)
    square = small.square()
    series = 0.5 + small * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600)))
    far = torch.where(near, 1.0, logits.abs())
    bright = 1 / (1 - (-far).exp()) - 1 / far
    return torch.where(near, series, torch.where(logits > 0, bright, 1 - bright))
