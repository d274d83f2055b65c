"""Encoders and decoders of every size: exact shapes, a gradient for every parameter, images that ignore each other."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Generator, Tensor, nn

from model.networks.build import NetworkSettings, build_networks, check_size
from model.networks.conv import ConvSettings, Upsampling, conv_decoder, conv_encoder, sizes
from model.networks.gated import GatedConvSettings
from model.networks.mlp import ACTIVATIONS, MLPSettings, mlp_decoder, mlp_encoder, start_at
from model.networks.resnet import ResNetSettings

MLP = MLPSettings(kind="mlp", hidden=(12,))
CONV = ConvSettings(kind="conv", channels=8, max_channels=16, hidden=12)
GATED = GatedConvSettings(kind="gated-conv", channels=4, features=12)
RESNET = ResNetSettings(kind="resnet", channels=8, multipliers=(1, 2), blocks=1)
SIZES = [(8, 8), (28, 28), (28, 20), (9, 13), (33, 17), (64, 64), (8, 256), (256, 256)]
SETTINGS = pytest.mark.parametrize("settings", [MLP, CONV, GATED, RESNET], ids=["mlp", "conv", "gated-conv", "resnet"])
SHAPES = pytest.mark.parametrize(
    "shape", [(channels, *size) for size in SIZES for channels in (1, 3)], ids=lambda shape: "x".join(map(str, shape))
)
Shape = tuple[int, int, int]


def fitting(settings: NetworkSettings, shape: Shape) -> Shape:
    """The shape, or for networks of multiples of four the next that they can have."""
    channels, *size = shape
    height, width = (4 * math.ceil(side / 4) if isinstance(settings, GatedConvSettings) else side for side in size)
    return (channels, height, width)


def networks(settings: NetworkSettings, shape: Shape, outputs: int, latent_dim: int) -> tuple[nn.Module, nn.Module]:
    """With as many parameters as the image has numbers."""
    return build_networks(settings, shape, outputs, latent_dim, shape)


@pytest.fixture(autouse=True)
def generator() -> Generator:
    torch.manual_seed(0)  # the layers draw their weights from the global generator
    return Generator().manual_seed(0)


@SETTINGS
class TestEvery:
    @SHAPES
    def test_shapes_are_exact(self, settings: NetworkSettings, shape: Shape, generator: Generator) -> None:
        """Also with more parameters than the image has channels."""
        shape = fitting(settings, shape)
        parameters = (2 * shape[0] + 1, *shape[1:])
        encoding, decoding = build_networks(settings, shape, 10, 5, parameters)
        with torch.no_grad():
            assert encoding(torch.rand(2, *shape, generator=generator)).shape == (2, 10)
            assert decoding(torch.randn(2, 5, generator=generator)).shape == (2, *parameters)

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 28, 20)])
    def test_every_parameter_has_a_gradient(
        self, settings: NetworkSettings, shape: Shape, generator: Generator
    ) -> None:
        shape = fitting(settings, shape)
        encoding, decoding = networks(settings, shape, 10, 10)
        images = torch.rand(4, *shape, generator=generator)
        weights = torch.randn(4, *shape, generator=generator)
        torch.autograd.backward((weights * decoding(encoding(images))).sum())
        for name, parameter in [*encoding.named_parameters(), *decoding.named_parameters()]:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.count_nonzero() > 0, name

    def test_images_do_not_depend_on_their_batch(self, settings: NetworkSettings, generator: Generator) -> None:
        """In training mode too: batch normalization would fail this."""
        shape = (3, 12, 8)
        encoding, decoding = (network.train() for network in networks(settings, shape, 4, 4))
        images = torch.rand(5, *shape, generator=generator)
        others = torch.cat([images[:1], 100 * torch.rand(4, *shape, generator=generator)])
        with torch.no_grad():
            alone = encoding(images[:1])
            torch.testing.assert_close(encoding(others)[:1], alone, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(decoding(encoding(others))[:1], decoding(alone), rtol=1e-4, atol=1e-5)

    def test_every_pixel_reaches_the_latent_and_every_latent_every_pixel(
        self, settings: NetworkSettings, generator: Generator
    ) -> None:
        shape = fitting(settings, (1, 9, 13))
        encoding, decoding = (network.double() for network in networks(settings, shape, 2, 2))
        images = torch.rand(1, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
        (of_pixels,) = torch.autograd.grad(encoding(images).sum(), images)
        assert of_pixels.count_nonzero() == of_pixels.numel()
        latents = torch.full((2,), 0.1, dtype=torch.float64)
        differentiate: Callable[..., Tensor] = torch.autograd.functional.jacobian
        jacobian = differentiate(lambda latent: decoding(latent[None])[0], latents)
        assert jacobian.shape == (*shape, 2)
        assert jacobian.count_nonzero() == jacobian.numel()

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 128, 96)])
    def test_what_a_fresh_network_says_is_of_sane_size(
        self, settings: NetworkSettings, shape: Shape, generator: Generator
    ) -> None:
        """With all else as it comes, neither nothing nor more than a few: of images as of draws from the prior."""
        encoding, decoding = networks(type(settings).model_validate({"kind": settings.kind}), shape, 64, 64)
        images = torch.rand(8, *shape, generator=generator) * torch.rand(8, 1, 1, 1, generator=generator)
        with torch.no_grad():
            encoded = encoding(images)
            decoded = decoding(torch.randn(8, 64, generator=generator))
        for outputs in (encoded, decoded):
            assert 0.01 < outputs.std(0).square().mean().sqrt() < 3, "differs from image to image"
            assert outputs.abs().mean() < 3

    def test_the_seed_decides_the_weights(self, settings: NetworkSettings) -> None:
        made = []
        for _ in range(2):
            torch.manual_seed(7)
            made.append([network.state_dict() for network in networks(settings, (1, 8, 8), 4, 4)])
        for first, second in zip(*made, strict=True):
            assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())

    @pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
    def test_sizes_are_refused_before_anything_is_built(self, settings: NetworkSettings, size: tuple[int, int]) -> None:
        """And only those for which nothing can be built."""
        shape = (1, *size)
        if fitting(settings, shape) == shape:
            check_size(settings, *size)
            return
        with pytest.raises(ValueError, match=r"multiples of 4"):
            check_size(settings, *size)
        with pytest.raises(ValueError, match=r"multiples of 4"):
            networks(settings, shape, 4, 4)


class TestMLP:
    def test_is_the_network_of_burda_et_al(self) -> None:
        """784-200-200-50 with tanh; mean and log_variance share the hidden layers."""
        settings = MLPSettings(kind="mlp")
        encoding, decoding = mlp_encoder(settings, (1, 28, 28), 2 * 50), mlp_decoder(settings, (1, 28, 28), 50)
        assert [type(layer) for layer in encoding] == [
            nn.Flatten, nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear,
        ]  # fmt: skip
        assert [type(layer) for layer in decoding] == [
            nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear, nn.Unflatten,
        ]  # fmt: skip
        assert widths(encoding) == [(784, 200), (200, 200), (200, 100)]
        assert widths(decoding) == [(50, 200), (200, 200), (200, 784)]

    @pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
    def test_has_the_activation_it_was_told(self, activation: str) -> None:
        settings = MLPSettings.model_validate({"kind": "mlp", "hidden": (5, 6, 7), "activation": activation})
        layers = mlp_decoder(settings, (1, 8, 8), 3)
        assert sum(isinstance(layer, ACTIVATIONS[activation]) for layer in layers) == 3
        assert widths(layers) == [(3, 7), (7, 6), (6, 5), (5, 64)]

    def test_starts_where_signals_keep_their_size(self) -> None:
        """Glorot and Bengio (2010): a layer's weights have the variance 2 / (inputs + outputs), its biases are zero."""
        layers = mlp_encoder(MLPSettings(kind="mlp"), (1, 28, 28), 100)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                assert layer.weight.var().item() == pytest.approx(2 / sum(layer.weight.shape), rel=0.05)
                assert not layer.bias.any()

    def test_a_fresh_decoder_can_start_at_the_mean_image(self, generator: Generator) -> None:
        decoding = mlp_decoder(MLPSettings(kind="mlp"), (3, 8, 9), 5)
        mean = torch.rand(3, 8, 9, generator=generator).clamp(0.01, 0.99)
        start_at(decoding, torch.logit(mean))
        # Without any word from the latent: the hidden layers are odd functions here, so zero gives zero.
        torch.testing.assert_close(torch.sigmoid(decoding(torch.zeros(1, 5)))[0], mean)


class TestConv:
    @pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
    def test_halves_until_the_shorter_side_is_at_most_four(self, size: tuple[int, int]) -> None:
        levels = sizes(*size)
        assert levels[0] == size
        assert min(levels[-1]) <= 4 < min(levels[-2])
        assert all(after == tuple(math.ceil(side / 2) for side in level) for level, after in pairwise(levels))

    def test_channels_double_up_to_the_limit(self) -> None:
        settings = ConvSettings(kind="conv", channels=8, max_channels=24)
        strided = [layer for layer in conv_encoder(settings, (3, 64, 64), 4) if isinstance(layer, nn.Conv2d)]
        assert [layer.out_channels for layer in strided] == [8, 16, 24, 24]
        assert all(layer.stride == (2, 2) for layer in strided)

    @pytest.mark.parametrize("blocks", [1, 2])
    def test_normalizes_by_group_and_never_by_batch(self, blocks: int) -> None:
        settings = ConvSettings(kind="conv", channels=8, blocks=blocks)
        layers = [*conv_encoder(settings, (1, 16, 16), 4).modules(), *conv_decoder(settings, (1, 16, 16), 4).modules()]
        assert sum(isinstance(layer, nn.GroupNorm) for layer in layers) == 2 * 2 * 2 * blocks + 1
        assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers)

    def test_upsampling_puts_each_group_of_four_channels_into_a_square(self) -> None:
        layer = Upsampling(1, 1, (3, 4), kernel=1)
        with torch.no_grad():
            layer.convolution.weight.zero_()
            assert layer.convolution.bias is not None
            layer.convolution.bias.copy_(torch.arange(4.0))
            image = layer(torch.zeros(1, 1, 2, 2))
        assert image[0, 0].tolist() == [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1]]  # the fourth row is cropped


def widths(layers: nn.Sequential) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers."""
    return [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (MLPSettings, {"kind": "mlp", "width": 3}),
        (MLPSettings, {"kind": "mlp", "hidden": []}),
        (MLPSettings, {"kind": "mlp", "hidden": [0]}),
        (MLPSettings, {"kind": "mlp", "activation": "gelu"}),
        (MLPSettings, {"kind": "conv"}),
        (ConvSettings, {"kind": "conv", "depth": 3}),
        (ConvSettings, {"kind": "conv", "channels": 12}),
        (ConvSettings, {"kind": "conv", "blocks": 0}),
        (ConvSettings, {"kind": "conv", "channels": 32, "max_channels": 16}),
        (ConvSettings, {"kind": "conv", "channels": 128}),
        (ConvSettings, {}),
        (GatedConvSettings, {"kind": "gated-conv", "channels": 0}),
        (GatedConvSettings, {"kind": "gated-conv", "hidden": 3}),
        (ResNetSettings, {"kind": "resnet", "channels": 12}),
        (ResNetSettings, {"kind": "resnet", "multipliers": [1]}),
        (ResNetSettings, {"kind": "resnet", "multipliers": [1, 0]}),
        (ResNetSettings, {"kind": "resnet", "blocks": 0}),
        (ResNetSettings, {"kind": "resnet", "attention": True}),
    ],
)
def test_settings_refuse_what_they_do_not_know(kind: type[BaseModel], document: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(document)
