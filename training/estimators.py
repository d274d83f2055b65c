"""Monte-Carlo estimates of what an image costs under a model. Of each sample no more than its weight is kept."""

import math
from typing import NamedTuple

import torch
from scipy.special import stdtrit  # type: ignore[import-untyped]  # SciPy ships no types
from torch import Generator, Tensor

from model.bundle.measurements import Estimate
from model.posteriors import Posterior
from model.priors import Prior
from model.vae import VAE
from training.importance import bound_grid, effective_sample_size, importance_weighted_bounds


class ImageEstimates(NamedTuple):
    """Per image ``(N,)`` but for the last; nats but for the effective sample size."""

    log_likelihood: Tensor
    """The importance-weighted bound L_k <= log p(x) (in expectation)."""
    distortion: Tensor
    """-E_q[log p(x|z)], over the same k samples."""
    rate: Tensor
    """KL(q || p): in closed form where there is one, else log q - log p over the same k samples."""
    effective_sample_size: Tensor
    """Of the k importance weights, between 1 and k."""
    bounds: Tensor
    """L_1 to L_k, nats, at the numbers of `training.importance.bound_grid`: ``(N, len(grid))``."""


@torch.inference_mode()
def estimate_images(
    model: VAE,
    images: Tensor,
    k: int,
    generator: Generator,
    *,
    chunk: int,
    at_a_time: int | None = None,
    prior: Prior | None = None,
) -> ImageEstimates:
    r"""L_k and the two halves of the ELBO of images ``(N, C, H, W)``, from k samples an image.

    .. math:: L_k = \mathbb{E}\Big[\log \tfrac1k \sum_{i=1}^k \frac{p(x|z_i)\,p(z_i)}{q(z_i|x)}\Big] \le \log p(x)

    Burda, Grosse and Salakhutdinov (2015), equation 8. It grows with k towards log p(x). The noise of
    ``chunk`` samples of all N images is drawn at a time, and decoded so many images ``at_a_time`` (absent: all of
    them): the one decides which numbers come out, the other only how much memory that takes. ``prior`` is the model's,
    where it is at hand already.
    """
    at_a_time = at_a_time or chunk * len(images)
    prior = prior or model.prior(at_a_time=at_a_time)
    posterior = encode(model, images, at_a_time)
    kept: list[Tensor] = []
    distortion, sampled_rate = torch.zeros(2, images.shape[0], dtype=torch.float64, device=images.device)
    for done in range(0, k, chunk):
        count = min(chunk, k - done)
        noise = torch.randn(count, *posterior.mean.shape, generator=generator, device=images.device)
        latents, log_density = posterior.draw(noise)
        given_latents = log_likelihood(model, images, latents, at_a_time)
        log_ratio = log_density - prior.log_density(latents)
        kept.append(given_latents - log_ratio)
        distortion -= given_latents.double().sum(0)
        sampled_rate += log_ratio.double().sum(0)
    closed_rate = prior.rate(posterior)
    rate = sampled_rate / k if closed_rate is None else closed_rate.double()
    log_weights = torch.cat(kept)
    bounds = importance_weighted_bounds(log_weights, bound_grid(k))
    return ImageEstimates(bounds[:, -1], distortion / k, rate, effective_sample_size(log_weights), bounds)


def encode(model: VAE, images: Tensor, at_a_time: int) -> Posterior:
    """The posteriors of images ``(N, C, H, W)``, which are encoded ``at_a_time`` at a time."""
    raw = torch.cat([model.encoder(piece).float() for piece in torch.split(images, at_a_time)])
    posterior: Posterior = model.family(raw)
    return posterior


def log_likelihood(model: VAE, images: Tensor, latents: Tensor, at_a_time: int) -> Tensor:
    """log p(x|z) ``(S, N)`` of images ``(N, C, H, W)`` at latents ``(S, N, D)``."""
    samples, count = latents.shape[:2]
    flat, which = latents.flatten(0, 1), torch.arange(count, device=images.device).repeat(samples)
    pieces = [
        model.likelihood.log_prob(model.decode(some), images[of])
        for some, of in zip(torch.split(flat, at_a_time), torch.split(which, at_a_time), strict=True)
    ]
    return torch.unflatten(torch.cat(pieces), 0, (samples, count))


def mean_over_images(values: Tensor) -> Estimate:
    """Mean over N >= 2 images with the 95% interval of the mean, by Student's t with N - 1 degrees of freedom."""
    values = values.double()
    mean = values.mean().item()
    reach = float(stdtrit(len(values) - 1, 0.975)) * values.std().item() / math.sqrt(len(values))
    return Estimate(value=mean, low=mean - reach, high=mean + reach)
