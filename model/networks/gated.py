"""The gated convolutional network of van den Berg et al. (2018, "Sylvester normalizing flows"), which they took for
MNIST, and others for what they compare with them.

Each layer is two convolutions, one of which says how much of the other passes: ``h(x) * sigmoid(g(x))``. The encoder
halves the image twice, by strides; a kernel as large as what is left then makes one vector of it. The decoder goes the
same way back. With 28x28 grey pixels and 64 latents that are 2,204,352 and 862,753 parameters, of which the two kernels
as large as the feature map are 2,007,680: their size grows with the number of pixels, and this is a network for small
images.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

_HALVINGS = 2
_KERNEL = 5


class GatedConvSettings(BaseModel):
    """How wide; the defaults are those of the code that the paper's authors published."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["gated-conv"]
    channels: int = Field(32, gt=0, description="channels at the image's size; twice as many at smaller ones")
    features: int = Field(256, gt=0, description="numbers that the encoder makes of an image, before the posterior's")


def gated_encoder(settings: GatedConvSettings, shape: tuple[int, int, int], outputs: int) -> nn.Sequential:
    """Images ``(N, C, H, W)`` -> ``(N, outputs)``; raises ValueError as ``smallest`` does."""
    inputs, height, width = shape
    left = smallest(height, width)
    few, many = settings.channels, 2 * settings.channels
    return nn.Sequential(
        _convolution(inputs, few),
        _convolution(few, few, stride=2),
        _convolution(few, many),
        _convolution(many, many, stride=2),
        _convolution(many, many),
        _gated(nn.Conv2d(many, 2 * settings.features, left), many * math.prod(left)),
        nn.Flatten(),
        nn.Linear(settings.features, outputs),
    )


def gated_decoder(settings: GatedConvSettings, shape: tuple[int, int, int], latent_dim: int) -> nn.Sequential:
    """Latents ``(N, D)`` -> likelihood parameters ``(N, C', H, W)``; raises ValueError as ``smallest`` does."""
    outputs, height, width = shape
    left = smallest(height, width)
    few, many = settings.channels, 2 * settings.channels
    return nn.Sequential(
        nn.Unflatten(1, (latent_dim, 1, 1)),
        # From a single pixel, each pixel of the output comes by one weight a channel.
        _gated(nn.ConvTranspose2d(latent_dim, 2 * many, left), latent_dim),
        _transposed(many, many),
        _transposed(many, few, stride=2),
        _transposed(few, few),
        _transposed(few, few, stride=2),
        _transposed(few, few),
        nn.Conv2d(few, outputs, 1),
    )


def smallest(height: int, width: int) -> tuple[int, int]:
    """Height and width after both halvings; raises ValueError where these leave a remainder.

    >>> smallest(28, 20)
    (7, 5)
    """
    factor = 2**_HALVINGS
    if height % factor or width % factor:
        raise ValueError(
            f"model.network.kind = 'gated-conv' halves an image twice: image.height and image.width must be multiples "
            f"of {factor}, not {height}x{width}"
        )
    return height // factor, width // factor


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A gated convolution that divides the size by the stride."""
    layer = nn.Conv2d(inputs, 2 * outputs, _KERNEL, stride=stride, padding=_KERNEL // 2)
    return _gated(layer, inputs * _KERNEL**2)


def _transposed(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A gated transposed convolution that multiplies the size by the stride."""
    layer = nn.ConvTranspose2d(
        inputs, 2 * outputs, _KERNEL, stride=stride, padding=_KERNEL // 2, output_padding=stride - 1
    )
    return _gated(layer, inputs * _KERNEL**2 / stride**2)


def _gated(layer: nn.Conv2d | nn.ConvTranspose2d, fan_in: float) -> nn.Sequential:
    """The first half of a layer's channels times the sigmoid of the others: both convolutions in one.

    A gate halves what passes; weights of variance ``4 / fan_in`` make up for it (Gehring et al., 2017, "Convolutional
    sequence to sequence learning"). With PyTorch's own, a twelfth of that, six layers would leave a thousandth of an
    image.
    """
    nn.init.normal_(layer.weight, std=math.sqrt(4 / fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.GLU(dim=1))
