"""What a model is made of, in the words of its card: networks, posterior, prior and likelihood."""

import math

from model.bundle.manifest import ImageSpec, LikelihoodSpec
from model.likelihoods import GaussianSettings, LikelihoodSettings
from model.networks import conv, gated, resnet
from model.networks.build import NetworkSettings
from model.networks.conv import ConvSettings
from model.networks.gated import GatedConvSettings
from model.networks.mlp import MLPSettings
from model.networks.resnet import ResNetSettings
from model.posteriors import LOG_VARIANCE_LIMIT
from model.posteriors.families import (
    DiagonalSettings,
    FullSettings,
    HouseholderSettings,
    IAFSettings,
    OrthogonalSettings,
    PlanarSettings,
    PosteriorSettings,
    RadialSettings,
    TriangularSettings,
)
from model.priors import PriorSettings, VampSettings


def encoder(network: NetworkSettings, image: ImageSpec) -> str:
    """The encoder of images of this size."""
    match network:
        case MLPSettings(hidden=hidden, activation=activation):
            return f"fully connected, {' and '.join(map(str, hidden))} hidden units, {activation}"
        case ConvSettings():
            levels = conv.sizes(image.height, image.width)
            return (
                f"convolutional, {_path(levels)} pixels, {network.channels} to at most {network.max_channels} "
                f"channels, residual blocks at each size: {network.blocks}, then {network.hidden} hidden units"
            )
        case GatedConvSettings(channels=channels, features=features):
            height, width = gated.smallest(image.height, image.width)
            return (
                f"gated convolutional (van den Berg et al., 2018), {channels} and {2 * channels} channels, kernels of "
                f"5x5 and the last of {height}x{width}, then {features} features"
            )
        case ResNetSettings(multipliers=multipliers):
            levels = resnet.sizes(network, image.height, image.width)
            widths = ", ".join(str(network.channels * multiplier) for multiplier in multipliers)
            return (
                f"residual, {_path(levels)} pixels with {widths} channels, "
                f"residual blocks at each size: {network.blocks}"
            )


def decoder(network: NetworkSettings) -> str:
    """The decoder that goes with it."""
    match network:
        case MLPSettings():
            return "the encoder's layers in reverse"
        case ConvSettings(hidden=hidden):
            return (
                f"convolutional: {hidden} hidden units, then the encoder's sizes, channels and residual blocks in "
                "reverse, each size from the one before by sub-pixel convolution"
            )
        case GatedConvSettings(channels=channels):
            return (
                f"gated transposed convolutions of {2 * channels} and {channels} channels with the encoder's kernels "
                "in reverse, then a convolution of 1x1"
            )
        case ResNetSettings():
            return (
                "residual: the encoder's sizes, channels and residual blocks in reverse, each size from the one before "
                "by sub-pixel convolution"
            )


def posterior(settings: PosteriorSettings) -> str:
    """What q(z|x) is."""
    base = f"diagonal Gaussian, log-variance softly bounded to ±{LOG_VARIANCE_LIMIT:g}"
    match settings:
        case DiagonalSettings():
            return base
        case FullSettings():
            return f"Gaussian with any covariance, its factor triangular, on the diagonal as a {base}"
        case PlanarSettings(steps=steps):
            flow = f"{steps} planar maps (Rezende and Mohamed, 2015)"
        case RadialSettings(steps=steps):
            flow = f"{steps} radial maps (Rezende and Mohamed, 2015)"
        case IAFSettings(steps=steps, hidden=hidden, context=context):
            flow = (
                f"{steps} inverse autoregressive maps (Kingma et al., 2016), each a network of two layers of "
                f"{hidden} units, told {context} numbers by the encoder"
            )
        case OrthogonalSettings(steps=steps, bottleneck=bottleneck):
            flow = f"{steps} orthogonal Sylvester maps (van den Berg et al., 2018) through {bottleneck} dimensions"
        case HouseholderSettings(steps=steps, reflections=reflections):
            flow = f"{steps} Householder Sylvester maps (van den Berg et al., 2018) of {reflections} reflections"
        case TriangularSettings(steps=steps):
            flow = f"{steps} triangular Sylvester maps (van den Berg et al., 2018)"
    return f"{base}, followed by {flow}; the encoder gives their parameters"


def prior(settings: PriorSettings, dim: int) -> str:
    """The prior over so many dimensions."""
    match settings:
        case VampSettings(components=components):
            return (
                f"VampPrior (Tomczak and Welling, 2018) over {dim} dimensions: the mean of the posteriors of "
                f"{components:,} learned images"
            )
        case _:
            return f"N(0, I) over {dim} dimensions"


def prior_parameters(settings: PriorSettings, image: ImageSpec) -> int:
    """How many numbers of it are learned: the pixels of pseudo-inputs."""
    return settings.components * math.prod(image.shape) if isinstance(settings, VampSettings) else 0


def likelihood(settings: LikelihoodSettings, spec: LikelihoodSpec) -> str:
    """The likelihood, with what was learned of it."""
    match spec.family:
        case "bernoulli":
            grey = "; the pixels are grey, so this is no likelihood of them" if spec.binarization == "none" else ""
            return f"Bernoulli, independent pixels{grey}"
        case "continuous-bernoulli":
            return "continuous Bernoulli (Loaiza-Ganem and Cunningham, 2019), independent pixels on [0, 1]"
        case "gaussian":
            learned = isinstance(settings, GaussianSettings) and settings.scale is None
            origin = "learned" if learned else "fixed"
            return f"Gaussian, independent pixels on [0, 1], one scale of {spec.scale:.4g} ({origin})"
        case "discretized-logistic":
            scales = "of each value from the decoder"
            if spec.scales is not None:
                scales = f"{' and '.join(f'{scale:.4g}' for scale in spec.scales)} on [0, 1], learned, one a channel"
            return f"discretized logistic (Salimans et al., 2017), independent 8-bit pixels, scales: {scales}"
        case "categorical":
            return "categorical, independent 8-bit pixels, a probability for each of the 256 levels"


def _path(levels: list[tuple[int, int]]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in levels)
