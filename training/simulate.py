"""Images that a model makes: drawn from p(x|z), pixel by pixel, not its mean."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from model.vae import VAE


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
    """
    latents = model.prior().sample(count, generator)
    return Simulated(model.likelihood.sample(model.decode(latents), generator), latents)
