"""Convolutional encoder and decoder with residual blocks, for images of any size from 8x8 to 256x256, square or not.

The encoder halves the image (rounding up) until its shorter side is at most 4, doubling the channels each time up to a
limit; a hidden layer then sees the whole of what is left. The decoder walks the same sizes back. Normalization is by
group, so that what the network says of an image never depends on the rest of the batch.
"""

import math
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_SIDE = 4
# Channels come in multiples of this, and group normalization makes so many groups of them (Wu and He, 2018).
GROUPS = 8


class ConvSettings(BaseModel):
    """How wide and how deep; the number of levels follows from the image size."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["conv"]
    channels: int = Field(16, ge=8, multiple_of=8, description="channels after the first halving")
    max_channels: int = Field(64, ge=8, multiple_of=8, description="channels double at each halving up to here")
    # Between two strided convolutions nothing else bends: without a block the stack would be one linear map.
    blocks: int = Field(1, ge=1, description="residual blocks at each size")
    hidden: int = Field(512, gt=0, description="units of the layer between the smallest feature map and the latent")

    @model_validator(mode="after")
    def _limit_is_none_below_the_start(self) -> "ConvSettings":
        if self.max_channels < self.channels:
            raise ValueError(
                f"model.network.max_channels = {self.max_channels} is less than model.network.channels = "
                f"{self.channels}, where they begin"
            )
        return self


def conv_encoder(settings: ConvSettings, shape: tuple[int, int, int], outputs: int) -> nn.Sequential:
    """Images ``(N, C, H, W)`` -> ``(N, outputs)``."""
    inputs, height, width = shape
    levels = sizes(height, width)
    layers: list[nn.Module] = []
    for channels in _channels(settings, len(levels) - 1):
        # The first filter sees 5x5 pixels: strokes and edges are wider than 3.
        kernel = 5 if not layers else 3
        layers.append(nn.Conv2d(inputs, channels, kernel, stride=2, padding=kernel // 2))
        layers += [ResidualBlock(channels) for _ in range(settings.blocks)]
        inputs = channels
    features = inputs * math.prod(levels[-1])
    layers += [nn.SiLU(), nn.Flatten(), nn.Linear(features, settings.hidden), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(settings.hidden, outputs))


def conv_decoder(settings: ConvSettings, shape: tuple[int, int, int], latent_dim: int) -> nn.Sequential:
    """Latents ``(N, D)`` -> likelihood parameters ``(N, C', H, W)``."""
    outputs, height, width = shape
    levels = sizes(height, width)[::-1]
    widths = _channels(settings, len(levels) - 1)[::-1]
    features = widths[0] * math.prod(levels[0])
    layers: list[nn.Module] = [nn.Linear(latent_dim, settings.hidden), nn.SiLU(), nn.Linear(settings.hidden, features)]
    layers.append(nn.Unflatten(1, (widths[0], *levels[0])))
    for (channels, after), size in zip(pairwise(widths), levels[1:], strict=False):
        layers += [ResidualBlock(channels) for _ in range(settings.blocks)]
        layers.append(Upsampling(channels, after, size, kernel=1))
    layers += [ResidualBlock(widths[-1]) for _ in range(settings.blocks)]
    layers += [nn.GroupNorm(GROUPS, widths[-1]), nn.SiLU()]
    return nn.Sequential(*layers, Upsampling(widths[-1], outputs, (height, width), kernel=3))


class ResidualBlock(nn.Module):
    """``x + f(x)``, f = (group norm, SiLU, 3x3 convolution) twice; ``(N, C, H, W)`` -> the same (He et al., 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.second = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(features))
        return features + residual


class Upsampling(nn.Module):
    """Twice the size by sub-pixel convolution (Shi et al., 2016), cropped where the level above is odd: ``(N, C, h,
    w)`` -> ``(N, C', H, W)``.

    All arithmetic happens at the small size, which is what makes a decoder cheap enough for thousands of importance
    samples an image.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], kernel: int) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.Conv2d(inputs, 4 * outputs, kernel, padding=kernel // 2)

    def forward(self, features: Tensor) -> Tensor:
        height, width = self.size
        return F.pixel_shuffle(self.convolution(features), 2)[:, :, :height, :width]


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes that an image goes through, from its own to the smallest; at least one halving.

    >>> sizes(28, 20)
    [(28, 20), (14, 10), (7, 5), (4, 3)]
    >>> sizes(8, 256)
    [(8, 256), (4, 128)]
    """
    levels = [(height, width)]
    while len(levels) == 1 or min(levels[-1]) > SMALLEST_SIDE:
        levels.append((math.ceil(levels[-1][0] / 2), math.ceil(levels[-1][1] / 2)))
    return levels


def _channels(settings: ConvSettings, halvings: int) -> list[int]:
    return [min(settings.channels * 2**level, settings.max_channels) for level in range(halvings)]
