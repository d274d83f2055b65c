"""Fully connected encoder and decoder.

With hidden = (200, 200), tanh and 50 latents on 28x28 images this is the network of Burda, Grosse and Salakhutdinov
(2015, "Importance weighted autoencoders"), one stochastic layer: 784-200-200-50 and its mirror image.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class MLPSettings(BaseModel):
    """The hidden layers of the encoder, from the image on; the decoder has them in reverse."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["mlp"]
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = Field((200, 200), min_length=1)
    activation: Literal["tanh", "relu", "silu"] = "tanh"


def mlp_encoder(settings: MLPSettings, shape: tuple[int, int, int], outputs: int) -> nn.Sequential:
    """Images ``(N, C, H, W)`` -> ``(N, outputs)``."""
    return nn.Sequential(nn.Flatten(), *_layers((math.prod(shape), *settings.hidden, outputs), settings.activation))


def mlp_decoder(settings: MLPSettings, shape: tuple[int, int, int], latent_dim: int) -> nn.Sequential:
    """Latents ``(N, D)`` -> likelihood parameters ``(N, C, H, W)``."""
    widths = (latent_dim, *reversed(settings.hidden), math.prod(shape))
    return nn.Sequential(*_layers(widths, settings.activation), nn.Unflatten(1, shape))


def _layers(widths: tuple[int, ...], activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return layers[:-1]  # the last layer is linear
