"""The residual network is as wide and as deep at each size as it was told."""

import pytest
import torch
from torch import Generator, nn

from model.networks.conv import ResidualBlock
from model.networks.resnet import ResNetSettings, resnet_decoder, resnet_encoder, sizes

SETTINGS = ResNetSettings(kind="resnet", channels=8, multipliers=(1, 2, 2, 4), blocks=3)


def test_blocks_and_channels_are_those_of_the_settings() -> None:
    shape = (3, 32, 24)
    encoding, decoding = resnet_encoder(SETTINGS, shape, 10), resnet_decoder(SETTINGS, shape, 5)
    strided = [layer for layer in encoding if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels, layer.stride[0]) for layer in strided] == [
        (3, 8, 1), (8, 16, 2), (16, 16, 2), (16, 32, 2),
    ]  # fmt: skip
    for network in (encoding, decoding):
        assert sum(isinstance(layer, ResidualBlock) for layer in network) == 4 * 3
        assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())


def test_works_at_the_size_of_the_image_too(generator: Generator) -> None:
    """Feature maps of every size go through the blocks, in both networks."""
    seen: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        seen.append(tuple(output.shape[1:]))

    shape = (1, 28, 17)
    for network, argument in (
        (resnet_encoder(SETTINGS, shape, 4), torch.rand(1, *shape, generator=generator)),
        (resnet_decoder(SETTINGS, shape, 4), torch.randn(1, 4, generator=generator)),
    ):
        for layer in network:
            if isinstance(layer, ResidualBlock):
                layer.register_forward_hook(note)
        with torch.no_grad():
            network(argument)
    maps = [(8, 28, 17), (16, 14, 9), (16, 7, 5), (32, 4, 3)]
    down = [each for each in maps for _ in range(3)]
    assert seen == down + down[::-1]


@pytest.mark.parametrize(
    ("size", "multipliers", "most"), [((8, 8), 4, 3), ((8, 256), 4, 3), ((256, 17), 6, 5), ((256, 256), 9, 8)]
)
def test_no_size_has_a_side_of_one_pixel(size: tuple[int, int], multipliers: int, most: int) -> None:
    fits = ResNetSettings(kind="resnet", multipliers=(1,) * most)
    assert min(sizes(fits, *size)[-1]) >= 2
    words = f"{size[0]}x{size[1]} can be halved {most - 1} times: use {most} multipliers"
    with pytest.raises(ValueError, match=words):
        sizes(ResNetSettings(kind="resnet", multipliers=(1,) * multipliers), *size)


def test_the_defaults_fit_every_image() -> None:
    for size in ((8, 8), (8, 256), (256, 256)):
        assert len(sizes(ResNetSettings(kind="resnet"), *size)) == 3


@pytest.fixture(autouse=True)
def generator() -> Generator:
    torch.manual_seed(0)  # the layers draw their weights from the global generator
    return Generator().manual_seed(0)
