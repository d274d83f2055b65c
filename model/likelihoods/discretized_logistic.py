"""The discretized logistic (Kingma et al., 2016; Salimans et al., 2017, equation 2, with one component): of a logistic
distribution each of the 256 levels takes the probability of its bin, and the first and the last the tails.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from model.likelihoods.base import LEVELS, FamilySettings, Support, from_levels, to_levels, uniform

_WIDTH = 1 / (LEVELS - 1)  # of a bin, on [0, 1] pixels
# No scale is smaller: at a fortieth of a level all probability lies in one bin. Probabilities have a bound, unlike
# densities: this one only keeps numbers finite.
SMALLEST_SCALE = 1e-4
_START = math.log(0.1)
# From the network, scales are within e^±7 of the first: from below 1e-4 to 110.
_REACH = 7.0
# The mean is a sum of 255 terms: all at once would take the memory of 255 images, and one by one as many nodes of a
# graph. So many at a time take about what a feature map of a decoder does, and were measured to be fastest: a
# nanosecond or two a term in ONNX Runtime on one core, some 0.2 ms for 28x28 grey pixels and 7 ms for 64x64 in color.
_AT_A_TIME = 17


class DiscretizedLogisticSettings(FamilySettings):
    """Independent 8-bit pixels."""

    support: ClassVar[Support] = "levels"
    family: Literal["discretized-logistic"]
    scale_per: Literal["channel", "pixel"] = Field(
        "channel",
        description="channel: one learned scale for each channel; pixel: the decoder gives one for each value",
    )

    def channels(self, image_channels: int) -> int:
        """C locations; with scales of pixels as many of these behind them."""
        return image_channels if self.scale_per == "channel" else 2 * image_channels


class DiscretizedLogistic(nn.Module):
    """Levels of a logistic distribution with location ``(1 + parameters) / 2`` on [0, 1] pixels.

    The parameters are locations on pixels from -1 to 1, as in Salimans et al. (2017): unbounded, so that black and
    white can be as sure as they need to be. The scale is one learned number a channel, ``(..., C, H, W)`` parameters;
    or comes from the decoder, with ``(..., 2 C, H, W)`` parameters, first all locations, then all raw log-scales,
    bounded softly.

    Args:
        channels: C where each has a scale of its own; None where the decoder gives them.
    """

    def __init__(self, channels: int | None) -> None:
        super().__init__()
        self.log_scale = None if channels is None else nn.Parameter(torch.full((channels, 1, 1), _START))

    def scales(self) -> list[float] | None:
        """The scale of each channel on [0, 1] pixels; None where the decoder gives them."""
        if self.log_scale is None:
            return None
        return [float(scale) for scale in (SMALLEST_SCALE + self.log_scale.detach().exp()).flatten()]

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], exactly: the sum over k = 1 .. 255 of P(level >= k), over 255.

        Which is the sum over all levels of level times probability, rearranged, and needs one sigmoid a level.
        """
        location, scale = self._split(parameters)
        standardized, width = (location / scale).unsqueeze(-4), _WIDTH / scale.unsqueeze(-4)
        total = torch.zeros_like(location)
        for first in range(0, LEVELS - 1, _AT_A_TIME):
            edges = torch.arange(first, first + _AT_A_TIME, dtype=location.dtype, device=location.device) + 0.5
            total = total + torch.sigmoid(standardized - edges.view(-1, 1, 1, 1) * width).sum(-4)
        return total / (LEVELS - 1)

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Log probability in nats of the 8-bit levels ``round(255 x)``, summed over pixels and channels.

        With the standardized edges a < b of a bin, ``sigmoid(b) - sigmoid(a)`` is
        ``sigmoid(b) sigmoid(-a) (1 - exp(a - b))``: no difference of two numbers that may be equal, so no bin is too
        far away to have a gradient. The first bin has no lower edge, and the last no upper one.
        """
        location, scale = self._split(parameters)
        level = to_levels(images)
        lower = (level - 0.5) * _WIDTH - location
        black, white = level <= 0, level >= LEVELS - 1
        # -softplus(-t) is log sigmoid(t), and 2 tanh(t/2) / (1 + tanh(t/2)) is 1 - exp(-t): for either as such ONNX has
        # no words but those that round to the log of 0.
        below = torch.where(white, 0.0, -F.softplus(-(lower + _WIDTH) / scale))
        above = torch.where(black, 0.0, -F.softplus(lower / scale))
        half = torch.tanh(0.5 * _WIDTH / scale)
        within = torch.where(black | white, 0.0, math.log(2) + half.log() - (1 + half).log())
        return (below + above + within).sum((-3, -2, -1))

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Levels, of a logistic draw by the inverse of its distribution function."""
        location, scale = self._split(parameters)
        return from_levels((location + scale * torch.logit(uniform(location, generator))) * (LEVELS - 1))

    def parameters_for(self, mean_image: Tensor) -> Tensor:
        """Locations at the mean image, scales as they begin. Where the image is nearly black or white its mean is
        greyer, since tails are cut off on one side only."""
        locations = 2 * mean_image - 1
        return locations if self.log_scale is not None else torch.cat([locations, torch.zeros_like(locations)])

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Location ``(..., C, H, W)`` and scale, which broadcasts with it, on [0, 1] pixels."""
        if self.log_scale is not None:
            return (1 + parameters) / 2, SMALLEST_SCALE + self.log_scale.exp()
        location, raw = parameters.chunk(2, dim=-3)
        return (1 + location) / 2, SMALLEST_SCALE + (_START + _REACH * torch.tanh(raw / _REACH)).exp()
