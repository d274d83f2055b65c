"""Images that a model makes: drawn from p(x|z), pixel by pixel, not its mean."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from model.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
)
from model.vae import VAE

_LEVELS = 256


class Simulated(NamedTuple):
    """Draws from a model."""

    images: Tensor
    """``(N, C, H, W)``."""
    latents: Tensor
    """``(N, D)``: each an exact sample of the posterior of its image."""


@torch.no_grad()
def simulate(model: VAE, count: int, generator: Generator) -> Simulated:
    """Ancestral samples: latents from the prior, and images from p(x|z).

    Args:
        model: in evaluation mode.
        count: N.
        generator: on the device of the model.

    Raises:
        TypeError: there is no way to draw from the model's likelihood.
    """
    latents = torch.randn(count, model.latent_dim, generator=generator, device=generator.device)
    return Simulated(draw_images(model.likelihood, model.decode(latents), generator), latents)


@torch.no_grad()
def draw_images(likelihood: Likelihood, parameters: Tensor, generator: Generator) -> Tensor:
    """One image ``(N, C, H, W)`` for each of the parameters ``(N, C', H, W)``; Gaussian pixels may leave [0, 1].

    Continuous pixels and levels are found by inverting their distribution function at uniform noise.

    Raises:
        TypeError: there is no way to draw from this likelihood.
    """
    match likelihood:
        case Bernoulli():
            return torch.bernoulli(likelihood.mean(parameters), generator=generator)
        case Gaussian():
            mean = likelihood.mean(parameters)
            return mean + likelihood.scale() * torch.randn(mean.shape, generator=generator, device=mean.device)
        case ContinuousBernoulli():
            # F(x) = (exp(l x) - 1) / (exp(l) - 1), where l < 0, lest it overflow; the mirrored distribution has -l.
            uniform = _uniform(parameters, generator)
            falling = -parameters.abs()
            dark = torch.where(falling < 0, torch.log1p(uniform * torch.expm1(falling)) / falling, uniform)
            return torch.where(parameters > 0, 1 - dark, dark).clamp(0, 1)
        case DiscretizedLogistic():
            location, scale = likelihood._split(parameters)
            return _to_pixels((location + scale * torch.logit(_uniform(location, generator))) * (_LEVELS - 1))
        case Categorical():
            logits = torch.unflatten(parameters, 1, (-1, _LEVELS)).movedim(2, -1)
            level = torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=generator)
            return _to_pixels(level.reshape(logits.shape[:-1]).to(parameters.dtype))
    raise TypeError(f"there is no way to draw images from a {type(likelihood).__name__}")


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _to_pixels(levels: Tensor) -> Tensor:
    """Beyond black and white there is nothing: the tails are theirs."""
    return levels.round().clamp(0, _LEVELS - 1) / (_LEVELS - 1)
