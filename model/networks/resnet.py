"""A deeper residual network, for images up to 256x256: it works at the image's own size too, and at each size after it
with several blocks.

The encoder is a convolution, then residual blocks with pre-activation (He et al., 2016, "Identity mappings in deep
residual networks") at each size, strided convolutions between sizes. A linear layer sees the whole of the last feature
map, so what is where in an image reaches the latent. The decoder walks the same sizes back, by sub-pixel convolution.
There is no attention: the linear layers on either side of the latent see all places at once already.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from model.networks.conv import GROUPS, ResidualBlock, Upsampling

# Below two pixels group normalization of few channels would leave nothing to tell images apart by.
_SMALLEST_SIDE = 2


class ResNetSettings(BaseModel):
    """How wide and how deep at each size."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["resnet"]
    channels: int = Field(32, ge=8, multiple_of=8, description="channels at the image's own size, over its multiplier")
    multipliers: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (1, 2, 4),
        min_length=2,
        description="of channels: one for each size, from the image's own on, each half the last",
    )
    blocks: int = Field(2, ge=1, description="residual blocks at each size")


def resnet_encoder(settings: ResNetSettings, shape: tuple[int, int, int], outputs: int) -> nn.Sequential:
    """Images ``(N, C, H, W)`` -> ``(N, outputs)``; raises ValueError as ``sizes`` does."""
    inputs, height, width = shape
    smallest = sizes(settings, height, width)[-1]
    widths = _widths(settings)
    layers: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 3, padding=1), *_blocks(settings, widths[0])]
    for channels, after in pairwise(widths):
        layers += [nn.Conv2d(channels, after, 3, stride=2, padding=1), *_blocks(settings, after)]
    layers += [nn.GroupNorm(GROUPS, widths[-1]), nn.SiLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(widths[-1] * math.prod(smallest), outputs))


def resnet_decoder(settings: ResNetSettings, shape: tuple[int, int, int], latent_dim: int) -> nn.Sequential:
    """Latents ``(N, D)`` -> likelihood parameters ``(N, C', H, W)``; raises ValueError as ``sizes`` does."""
    outputs, height, width = shape
    levels, widths = sizes(settings, height, width)[::-1], _widths(settings)[::-1]
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, widths[0] * math.prod(levels[0])),
        nn.Unflatten(1, (widths[0], *levels[0])),
        *_blocks(settings, widths[0]),
    ]
    for (channels, after), size in zip(pairwise(widths), levels[1:], strict=True):
        layers += [Upsampling(channels, after, size, kernel=1), *_blocks(settings, after)]
    layers += [nn.GroupNorm(GROUPS, widths[-1]), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], outputs, 3, padding=1))


def sizes(settings: ResNetSettings, height: int, width: int) -> list[tuple[int, int]]:
    """The sizes that an image goes through, from its own to the smallest, rounded up.

    >>> sizes(ResNetSettings(kind="resnet", multipliers=(1, 2, 2)), 28, 17)
    [(28, 17), (14, 9), (7, 5)]

    Raises:
        ValueError: more multipliers than the image has sizes of two pixels and more.
    """
    levels = [(height, width)]
    while len(levels) < len(settings.multipliers):
        levels.append((math.ceil(levels[-1][0] / 2), math.ceil(levels[-1][1] / 2)))
        if min(levels[-1]) < _SMALLEST_SIDE:
            raise ValueError(
                f"{len(settings.multipliers)} model.network.multipliers halve an image "
                f"{len(settings.multipliers) - 1} times, and image.height and image.width of {height}x{width} can be "
                f"halved {len(levels) - 2} times: use {len(levels) - 1} multipliers at most"
            )
    return levels


def _widths(settings: ResNetSettings) -> list[int]:
    return [settings.channels * multiplier for multiplier in settings.multipliers]


def _blocks(settings: ResNetSettings, channels: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(settings.blocks)]
