"""Fully connected encoder and decoder.

With hidden = (200, 200), tanh and 50 latents on 28x28 images this is the network of Burda, Grosse and Salakhutdinov
(2015, "Importance weighted autoencoders"), one stochastic layer: 784-200-200-50 and its mirror image.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

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
    """Latents ``(N, D)`` -> likelihood parameters ``(N, C', H, W)``."""
    widths = (latent_dim, *reversed(settings.hidden), math.prod(shape))
    return nn.Sequential(*_layers(widths, settings.activation), nn.Unflatten(1, shape))


def start_at(decoder: nn.Sequential, parameters: Tensor) -> None:
    """Set a fresh decoder's last biases to likelihood parameters ``(C', H, W)``: those of the mean image, as Burda et
    al. did.

    A decoder that has learned nothing of its latent yet then gives the mean image. If it has to learn that first, most
    latent dimensions collapse onto the prior meanwhile, and never come back.
    """
    last = next(layer for layer in reversed(decoder) if isinstance(layer, nn.Linear))
    with torch.no_grad():
        last.bias.copy_(parameters.flatten())


def _layers(widths: tuple[int, ...], activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        # Glorot and Bengio (2010). PyTorch's own default starts at half the scale, where a deep tanh network is linear.
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, ACTIVATIONS[activation]()]
    return layers[:-1]  # the last layer is linear
