"""One latent an image where the dimensions of posterior and prior are independent: what is asked of each by itself."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.posteriors import DiagonalGaussian
from model.vae import VAE
from training.noise import Source, standard_normal


class OneLatent(NamedTuple):
    """Of B images."""

    posterior: DiagonalGaussian
    latent: Tensor
    """``(B, D)``."""
    distortion: Tensor
    """-log p(x|z) ``(B,)`` in nats."""


def one_latent(model: VAE, images: Tensor, generator: Source, *, autocast: bool) -> OneLatent:
    """Encode images ``(B, C, H, W)``, draw a latent for each, decode it.

    Raises:
        TypeError: the dimensions of the posterior, or of the prior, are not independent.
    """
    if model.pseudo_inputs is not None:
        raise TypeError("this objective is defined for a standard normal prior only")
    noise = standard_normal((images.shape[0], model.latent_dim), generator, images.device)
    posterior = diagonal(model, images, autocast=autocast)
    latent = posterior.reparameterize(noise)
    return OneLatent(posterior, latent, distortion(model, images, latent, autocast=autocast))


def diagonal(model: VAE, images: Tensor, *, autocast: bool) -> DiagonalGaussian:
    """The posteriors of images ``(B, C, H, W)``; raises TypeError where their dimensions are not independent."""
    posterior = model.posterior(images, autocast=autocast)
    if not isinstance(posterior, DiagonalGaussian):
        raise TypeError("this objective is defined for diagonal posteriors only")
    return posterior


def distortion(model: VAE, images: Tensor, latent: Tensor, *, autocast: bool) -> Tensor:
    """-log p(x|z) ``(B,)`` in nats of images ``(B, C, H, W)`` at latents ``(B, D)``."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
        parameters = model.decode(latent)
    return -model.likelihood.log_prob(parameters, images)
