"""The kinds of networks: encoder and decoder by their settings."""

from torch import nn

from model.networks import gated, resnet
from model.networks.conv import ConvSettings, conv_decoder, conv_encoder
from model.networks.gated import GatedConvSettings, gated_decoder, gated_encoder
from model.networks.mlp import MLPSettings, mlp_decoder, mlp_encoder
from model.networks.resnet import ResNetSettings, resnet_decoder, resnet_encoder

NetworkSettings = MLPSettings | ConvSettings | GatedConvSettings | ResNetSettings

Shape = tuple[int, int, int]
"""(channels, height, width)."""


def build_networks(
    settings: NetworkSettings, image: Shape, outputs: int, latent_dim: int, parameters: Shape
) -> tuple[nn.Module, nn.Module]:
    """An encoder ``(N, *image)`` -> ``(N, outputs)`` and a decoder ``(N, latent_dim)`` -> ``(N, *parameters)``, with
    fresh weights from the global generator.

    Raises:
        ValueError: as ``check_size`` does.
    """
    match settings:
        case MLPSettings():
            return mlp_encoder(settings, image, outputs), mlp_decoder(settings, parameters, latent_dim)
        case ConvSettings():
            return conv_encoder(settings, image, outputs), conv_decoder(settings, parameters, latent_dim)
        case GatedConvSettings():
            return gated_encoder(settings, image, outputs), gated_decoder(settings, parameters, latent_dim)
        case ResNetSettings():
            return resnet_encoder(settings, image, outputs), resnet_decoder(settings, parameters, latent_dim)


def check_size(settings: NetworkSettings, height: int, width: int) -> None:
    """Raise ValueError, which says what would do, where a network cannot be built for images of this size."""
    match settings:
        case GatedConvSettings():
            gated.smallest(height, width)
        case ResNetSettings():
            resnet.sizes(settings, height, width)
