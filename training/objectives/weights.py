"""Importance weights of latents: the one place where images, posterior, decoder and prior meet for several latents."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.posteriors import DiagonalGaussian, FullGaussian, Posterior
from model.priors import Prior
from model.vae import VAE


class LogWeights(NamedTuple):
    """log w = log p(x|z) + log p(z) - log q(z|x) of k latents of each of N images, in nats, in two parts."""

    log_likelihood: Tensor
    """log p(x|z), ``(k, N)``; its mean over k is minus the distortion."""
    log_ratio: Tensor
    """log p(z) - log q(z|x), ``(k, N)``; its mean over k estimates minus the rate."""
    latents: Tensor
    """``(k, N, D)``."""

    @property
    def total(self) -> Tensor:
        """log w, ``(k, N)``."""
        return self.log_likelihood + self.log_ratio


def log_weights(
    model: VAE,
    images: Tensor,
    noise: Tensor,
    *,
    frozen: bool = False,
    autocast: bool = False,
    posterior: Posterior | None = None,
    prior: Prior | None = None,
) -> LogWeights:
    """Log importance weights of the latents that standard normal noise ``(k, N, D)`` becomes for images
    ``(N, C, H, W)``.

    Args:
        frozen: let q's own parameters have no gradient in log q(z|x): only through the latents do they change a weight
            (Roeder et al., 2017). The prior keeps its gradient, also where the encoder makes it of pseudo-inputs: it is
            a part of the model, as the decoder is.
        autocast: run the networks in bfloat16; densities are float32 in any case.
        posterior: of the images, where it is at hand already.
        prior: the model's, where it is.

    Raises:
        TypeError: ``frozen``, and the posterior has no density at a given latent.
    """
    posterior = posterior or model.posterior(images, autocast=autocast)
    prior = prior or model.prior(autocast=autocast)
    latents, log_density = posterior.draw(noise)
    if frozen:
        log_density = _constant(posterior).log_density(latents)
    k = noise.shape[0]
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
        parameters = model.decode(latents.flatten(0, 1))
    observed = images.expand(k, *images.shape).flatten(0, 1)
    log_likelihood = torch.unflatten(model.likelihood.log_prob(parameters, observed), 0, noise.shape[:2])
    return LogWeights(log_likelihood, prior.log_density(latents) - log_density, latents)


def _constant(posterior: Posterior) -> DiagonalGaussian | FullGaussian:
    """The same posterior, with parameters that have no gradient."""
    match posterior:
        case DiagonalGaussian() | FullGaussian():
            return type(posterior)(*(parameter.detach() for parameter in posterior))
        case _:
            raise TypeError("gradients without the score of q need a Gaussian posterior")
