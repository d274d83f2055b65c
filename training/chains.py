"""The true posterior p(z|x) of a trained model by Hamiltonian Monte Carlo, for all chains of all images at once.

What q(z|x) only approximates, with its correlations, its skew, and the tails that a Gaussian does not have.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from model.hmc import hmc
from model.vae import VAE
from training.convergence import chain_sample_size, split_r_hat
from training.densities import draw_noise, frozen, path_from_posterior
from training.estimators import encode

_START_STEP = 0.3


class ChainSettings(NamedTuple):
    """How to sample. The cost is S * N * (warmup + iterations) * leapfrog_steps gradients of the decoder. The defaults
    give several hundred independent draws of most dimensions on MNIST, some tens of the slowest."""

    chains: int = 4
    """S of each image."""
    warmup: int = 75
    """Moves of each chain that find the step sizes, and whose states are not kept."""
    iterations: int = 200
    """Moves whose states are kept, M."""
    leapfrog_steps: int = 4
    """Gradients a move: half a period of N(0, I) at the step sizes that are found. With more, chains come back."""

    @property
    def moves(self) -> int:
        """Of each chain, with the warm-up."""
        return self.warmup + self.iterations


class PosteriorChains(NamedTuple):
    """Draws of p(z|x), and what they are worth."""

    latents: Tensor
    """``(M, S, N, D)``."""
    acceptance_rate: Tensor
    """``(N,)``, mean over chains and moves; far from 0.65 the step sizes were not found."""
    step_size: Tensor
    """``(N,)``, in units of q's noise."""
    r_hat: Tensor
    """Split R-hat of each latent dimension, ``(N, D)``."""
    effective_sample_size: Tensor
    """Of the mean of each latent dimension, ``(N, D)``."""


def sample_posteriors(
    model: VAE,
    images: Tensor,
    generator: Generator,
    settings: ChainSettings | None = None,
    *,
    at_a_time: int | None = None,
    advance: Callable[[], object] | None = None,
) -> PosteriorChains:
    """Chains of p(z|x), which is p(x|z) p(z) up to a factor, of images ``(N, C, H, W)``.

    They start at draws of q(z|x) and move in the space of its noise, as :func:`training.densities.path_from_posterior`
    says; whatever q is, the draws in the end are of the true posterior. But chains that start where q is do not find
    what lies far from it: an R-hat near 1 says that they agree, and not that there is nothing else.

    Args:
        model: in evaluation mode.
        images: as its likelihood wants them; binary for a Bernoulli.
        generator: on the device of the images.
        settings: how to sample; absent: the defaults.
        at_a_time: how many latents are decoded at a time (absent: all). It decides how much memory that takes, and not
            which numbers come out.
        advance: is called after every move of the chains.

    Raises:
        ValueError: no chain, less than four iterations, or another number that is not positive.
    """
    settings = settings or ChainSettings()
    if settings.chains < 1 or settings.iterations < 4:
        raise ValueError(
            f"there must be a chain or more, of four iterations or more, not {settings.chains} of {settings.iterations}"
        )
    at_a_time = at_a_time or settings.chains * len(images)
    with frozen(model):
        with torch.no_grad():
            posterior = encode(model, images, at_a_time)
        path = path_from_posterior(model, posterior, images, at_a_time)

        def log_density(noise: Tensor) -> Tensor:
            return path.log_initial(noise) + path.log_ratio(noise)

        start = draw_noise(posterior, settings.chains, generator)
        found = hmc(
            log_density,
            start,
            generator,
            step_size=_START_STEP,
            leapfrog_steps=settings.leapfrog_steps,
            iterations=settings.iterations,
            warmup=settings.warmup,
            advance=advance,
        )
        with torch.no_grad():
            latents = torch.stack([posterior.draw(noise).latent for noise in found.samples])
    return PosteriorChains(
        latents,
        found.acceptance_rate.mean(0),
        found.step_size,
        split_r_hat(latents),
        chain_sample_size(latents),
    )
