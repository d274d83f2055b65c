"""Binary pixels."""

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from model.likelihoods.base import FamilySettings, Support, logits_of


class BernoulliSettings(FamilySettings):
    """Independent binary pixels."""

    support: ClassVar[Support] = "binary"
    family: Literal["bernoulli"]


class Bernoulli(nn.Module):
    """Binary pixels; the parameters ``(..., C, H, W)`` are logits.

    For images that are not binary, ``log_prob`` is a negative cross-entropy and no likelihood: binarize first, or take
    the continuous Bernoulli.
    """

    def mean(self, parameters: Tensor) -> Tensor:
        """``sigmoid(logits)``."""
        return torch.sigmoid(parameters)

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """``x * logit - softplus(logit)``, summed: stable for logits of any size."""
        return (images * parameters - F.softplus(parameters)).sum((-3, -2, -1))

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Zeros and ones."""
        return torch.bernoulli(self.mean(parameters), generator=generator)

    def parameters_for(self, mean_image: Tensor) -> Tensor:
        """``logit(mean_image)``: its mean is the mean image."""
        return logits_of(mean_image)
