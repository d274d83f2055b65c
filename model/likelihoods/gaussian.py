"""Gaussian pixels."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from model.likelihoods.base import FamilySettings, Support, logits_of

_LOG_TWO_PI = math.log(2 * math.pi)
# A learned scale may not fall below this: a quarter of a grey level. Where the data allow more (constant pictures), the
# density would grow without bound.
SMALLEST_SCALE = 1e-3


class GaussianSettings(FamilySettings):
    """Independent Gaussian pixels around the mean image, one scale for all."""

    support: ClassVar[Support] = "interval"
    family: Literal["gaussian"]
    scale: float | None = Field(None, ge=SMALLEST_SCALE, description="sigma on [0, 1] pixels; absent: learned")


class Gaussian(nn.Module):
    """Pixels N(sigmoid(parameters), scale^2), a density on [0, 1]-scaled values; parameters ``(..., C, H, W)``.

    The scale is one number for the whole model, learned by maximum likelihood unless fixed (Rybkin et al., 2021,
    "Simple and effective VAE training with calibrated decoders"). With a fixed scale, beta is in disguise: halving
    sigma^2 doubles the weight of the distortion.
    """

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self.learned = scale is None
        start = torch.tensor(math.log(scale if scale is not None else 0.25))
        self.log_scale: Tensor
        if self.learned:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    def scale(self) -> Tensor:
        """sigma, a scalar; at least ``SMALLEST_SCALE``."""
        if not self.learned:
            return self.log_scale.exp()
        return SMALLEST_SCALE + self.log_scale.exp()

    def mean(self, parameters: Tensor) -> Tensor:
        """``sigmoid(parameters)``: the mean of a [0, 1] pixel lies in [0, 1], so what is trained is what is served."""
        return torch.sigmoid(parameters)

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Log density, summed over pixels and channels."""
        scale = self.scale()
        standardized = (images - self.mean(parameters)) / scale
        return (-0.5 * (standardized.square() + _LOG_TWO_PI) - scale.log()).sum((-3, -2, -1))

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """The mean with noise; pixels may leave [0, 1], as the density does."""
        mean = self.mean(parameters)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + self.scale() * noise

    def parameters_for(self, mean_image: Tensor) -> Tensor:
        """``logit(mean_image)``: its mean is the mean image."""
        return logits_of(mean_image)
