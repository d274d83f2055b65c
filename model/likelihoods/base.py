"""What all likelihoods have in common: the interface, and what their settings say of the pixels they describe."""

from typing import ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor

Support = Literal["binary", "interval", "levels"]
"""What a pixel may be: 0 or 1; any number in [0, 1], of which the likelihood is a density; one of 256 levels k/255."""

LEVELS = 256
"""Grey levels of an 8-bit pixel."""


class FamilySettings(BaseModel):
    """A family of likelihoods, and how its decoder is laid out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    support: ClassVar[Support]

    def channels(self, image_channels: int) -> int:
        """C', the numbers that a decoder gives for each pixel of an image with C channels: C, unless a family needs
        more."""
        return image_channels


class Likelihood(Protocol):
    """What the VAE asks of p(x|z)."""

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], ``(..., C, H, W)`` in [0, 1], of parameters ``(..., C', H, W)``."""
        ...

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """log p(x|z), ``(...)`` nats: the sum over the last three axes of the broadcast shapes."""
        ...

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """A draw from p(x|z), ``(N, C, H, W)``, for each of the parameters ``(N, C', H, W)``."""
        ...

    def parameters_for(self, mean_image: Tensor) -> Tensor:
        """Parameters ``(C', H, W)`` of the family's member that a decoder without any knowledge should begin with,
        given the mean ``(C, H, W)`` of all images, in [0, 1]."""
        ...


def to_levels(images: Tensor) -> Tensor:
    """The 8-bit levels 0 to 255 of pixels in [0, 1], as numbers of the same type.

    >>> to_levels(torch.tensor([0.0, 0.2, 1.0])).tolist()
    [0.0, 51.0, 255.0]
    """
    return torch.round(images * (LEVELS - 1))


def from_levels(levels: Tensor) -> Tensor:
    """Pixels in [0, 1] of levels, which are rounded; beyond black and white there is nothing.

    >>> from_levels(torch.tensor([-3.0, 50.9, 300.0])).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    return levels.round().clamp(0, LEVELS - 1) / (LEVELS - 1)


def uniform(like: Tensor, generator: Generator) -> Tensor:
    """Noise in [0, 1) of the same shape, for the inverse of a distribution function."""
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def logits_of(mean_image: Tensor) -> Tensor:
    """Logits of probabilities, these kept within [0.001, 0.999]: pixels that are always black have finite ones."""
    return torch.logit(mean_image, eps=1e-3)
