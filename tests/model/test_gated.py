"""The gated convolutional network is that of van den Berg et al. (2018), for images of other sizes too."""

import pytest
import torch
from torch import Generator, nn

from model.networks.gated import GatedConvSettings, gated_decoder, gated_encoder, smallest

PAPER = GatedConvSettings(kind="gated-conv")


def convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]


def test_is_the_network_of_the_paper() -> None:
    """32, 32, 64, 64, 64 channels with strides 1, 2, 1, 2, 1, then 7x7 to 256; each twice, for the gates."""
    encoding, decoding = gated_encoder(PAPER, (1, 28, 28), 128), gated_decoder(PAPER, (1, 28, 28), 64)
    layers = convolutions(encoding)
    assert [layer.out_channels for layer in layers] == [2 * each for each in (32, 32, 64, 64, 64, 256)]
    assert [layer.stride[0] for layer in layers] == [1, 2, 1, 2, 1, 1]
    assert [layer.kernel_size for layer in layers] == [(5, 5)] * 5 + [(7, 7)]
    *gates, last = convolutions(decoding)
    assert [layer.in_channels for layer in gates] == [64, 64, 64, 32, 32, 32]
    assert [layer.out_channels for layer in gates] == [2 * each for each in (64, 64, 32, 32, 32, 32)]
    assert [layer.stride[0] for layer in gates] == [1, 1, 2, 1, 2, 1]
    assert [layer.kernel_size for layer in gates] == [(7, 7)] + [(5, 5)] * 5
    assert (last.kernel_size, last.in_channels, last.out_channels) == ((1, 1), 32, 1)
    assert sum(parameter.numel() for parameter in encoding.parameters()) == 2_204_352
    assert sum(parameter.numel() for parameter in decoding.parameters()) == 862_753


def test_the_last_kernel_sees_all_that_is_left() -> None:
    assert convolutions(gated_encoder(PAPER, (3, 8, 36), 4))[-1].kernel_size == (2, 9)
    assert convolutions(gated_decoder(PAPER, (3, 8, 36), 4))[0].kernel_size == (2, 9)


def test_a_gate_is_the_sigmoid_of_a_convolution_of_its_own(generator: Generator) -> None:
    """Both halves of the channels of one layer are what two layers would give."""
    first = gated_encoder(PAPER, (3, 8, 8), 4)[0]
    (layer,) = convolutions(first)
    assert layer.bias is not None
    images = torch.rand(2, 3, 8, 8, generator=generator)
    passed = nn.functional.conv2d(images, layer.weight[:32], layer.bias[:32], padding=2)
    opened = nn.functional.conv2d(images, layer.weight[32:], layer.bias[32:], padding=2).sigmoid()
    torch.testing.assert_close(first(images), passed * opened)


def test_weights_start_with_four_over_the_numbers_that_an_output_is_made_of(generator: Generator) -> None:
    """So inputs of variance 1 become outputs of variance 4, away from the border; biases are zero."""
    *gates, _ = convolutions(gated_decoder(PAPER, (1, 28, 28), 64))
    with torch.no_grad():
        for layer in (*convolutions(gated_encoder(PAPER, (1, 28, 28), 4)), *gates):
            assert layer.bias is not None
            assert not layer.bias.any()
            alone = layer.kernel_size == (7, 7)
            side = 32 if not alone else 7 if isinstance(layer, nn.Conv2d) else 1
            outputs = layer(torch.randn(32, layer.in_channels, side, side, generator=generator))
            inside = outputs if alone else outputs[..., 4:-4, 4:-4]
            assert inside.square().mean().item() == pytest.approx(4, rel=0.15)


def test_signals_keep_their_size_from_layer_to_layer(generator: Generator) -> None:
    """To within a factor of three over the whole stack, where PyTorch's own start would leave a thousandth."""
    encoding = gated_encoder(PAPER, (1, 28, 28), 4)[:6]
    decoding = gated_decoder(PAPER, (1, 28, 28), 64)[:-1]
    with torch.no_grad():
        images = torch.rand(32, 1, 28, 28, generator=generator)
        of_images = encoding(images).square().mean() / images.square().mean()
        of_latents = decoding(torch.randn(32, 64, generator=generator)).square().mean()
    assert 1 / 9 < of_images < 9
    assert 1 / 9 < of_latents < 9


@pytest.mark.parametrize("size", [(28, 27), (30, 28), (9, 13)])
def test_sizes_with_a_remainder_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of 4, not {size[0]}x{size[1]}"):
        smallest(*size)


@pytest.fixture(autouse=True)
def generator() -> Generator:
    torch.manual_seed(0)  # the layers draw their weights from the global generator
    return Generator().manual_seed(0)
