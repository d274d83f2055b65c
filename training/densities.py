"""What chains of a trained model move on: densities of latents, differentiable in these and in nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from model.ais import AnnealingPath
from model.divergences import LogDensity
from model.posteriors import Posterior
from model.priors import StandardNormal
from model.vae import VAE


def path_from_posterior(model: VAE, posterior: Posterior, images: Tensor, at_a_time: int) -> AnnealingPath:
    """From q(z|x) to p(x, z), in the space of the noise that q's draws are made of.

    There q is N(0, I) whatever its family, flows included, and the true posterior is nearly round, so that one step
    size suits all directions (as Hoffman et al., 2019, "NeuTra-lizing bad geometry").

    Args:
        model: in evaluation mode, its parameters without gradients.
        posterior: q(z|x) of these images, without gradients.
        images: ``(N, C, H, W)``, as the likelihood wants them.
        at_a_time: how many latents are decoded at a time.
    """
    log_likelihood = differentiable_log_likelihood(model, images, at_a_time)
    prior = model.prior(at_a_time=at_a_time)

    def log_ratio(noise: Tensor) -> Tensor:
        latents, log_density = posterior.draw(noise)
        return log_likelihood(latents) + prior.log_density(latents) - log_density

    return AnnealingPath(StandardNormal(model.latent_dim).log_density, log_ratio)


def draw_noise(posterior: Posterior, count: int, generator: Generator) -> Tensor:
    """Standard normal noise ``(count, N, D)`` that becomes as many draws of the posterior of each image."""
    like = posterior.mean
    return torch.randn(count, *like.shape, generator=generator, device=like.device, dtype=like.dtype)


def differentiable_log_likelihood(model: VAE, images: Tensor, at_a_time: int) -> LogDensity:
    """log p(x|z), ``(S, N, D) -> (S, N)``, differentiable in z.

    Gradients are taken piece by piece, along with the values: one graph of all pieces would keep the features of all.
    """

    def log_likelihood(latents: Tensor) -> Tensor:
        chains, count = latents.shape[:2]
        which = torch.arange(count, device=images.device).repeat(chains)
        flat = latents.detach().flatten(0, 1)
        values, gradients = [], []
        for some, of in zip(torch.split(flat, at_a_time), torch.split(which, at_a_time), strict=True):
            with torch.enable_grad():
                variable = some.detach().requires_grad_()
                value = model.likelihood.log_prob(model.decode(variable), images[of])
                gradients.append(torch.autograd.grad(value.sum(), variable)[0])
            values.append(value.detach())
        value = torch.unflatten(torch.cat(values), 0, (chains, count))
        gradient = torch.unflatten(torch.cat(gradients), 0, (chains, count))
        # Of this value, to which zero is added, autograd finds this gradient.
        with_gradient: Tensor = value + (gradient * (latents - latents.detach())).sum(-1)
        return with_gradient

    return log_likelihood


@contextmanager
def frozen(model: VAE) -> Iterator[None]:
    """No graph for parameters: what their gradients need would be kept too."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
