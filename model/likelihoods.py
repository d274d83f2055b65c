"""p(x|z): how probable an image is, given what the decoder says.

A likelihood turns the decoder's output ("parameters", ``(N, C, H, W)``) into the mean image in [0, 1] and into log
p(x|z), summed over pixels and channels, in nats.
"""

import math
from typing import Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

_LOG_TWO_PI = math.log(2 * math.pi)
# A learned scale may not fall below this: a quarter of a grey level. Where the data allow more (constant pictures), the
# density would grow without bound.
SMALLEST_SCALE = 1e-3


class BernoulliSettings(BaseModel):
    """Independent binary pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    family: Literal["bernoulli"]


class GaussianSettings(BaseModel):
    """Independent Gaussian pixels around the mean image, one scale for all."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    family: Literal["gaussian"]
    scale: float | None = Field(None, ge=SMALLEST_SCALE, description="sigma on [0, 1] pixels; absent: learned")


LikelihoodSettings = BernoulliSettings | GaussianSettings


class Likelihood(Protocol):
    """What the VAE asks of p(x|z)."""

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], ``(..., C, H, W)`` in [0, 1]."""
        ...

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """log p(x|z), ``(...)`` nats: the sum over the last three axes of the broadcast shapes."""
        ...


class Bernoulli(nn.Module):
    """Binary pixels; the parameters are logits.

    For images that are not binary, ``log_prob`` is a negative cross-entropy and no likelihood: binarize first.
    """

    def mean(self, parameters: Tensor) -> Tensor:
        """``sigmoid(logits)``."""
        return torch.sigmoid(parameters)

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """``x * logit - softplus(logit)``, summed: stable for logits of any size."""
        return (images * parameters - F.softplus(parameters)).sum((-3, -2, -1))


class Gaussian(nn.Module):
    """Pixels N(sigmoid(parameters), scale^2), a density on [0, 1]-scaled values.

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


def build_likelihood(settings: LikelihoodSettings) -> Bernoulli | Gaussian:
    """The module that the settings describe."""
    match settings:
        case BernoulliSettings():
            return Bernoulli()
        case GaussianSettings(scale=scale):
            return Gaussian(scale)
