"""A plain autoencoder: the latent is the posterior's mean. Nothing is drawn, nothing keeps latents near the prior."""

from dataclasses import dataclass

from torch import Tensor

from model.vae import VAE
from training.noise import Source
from training.objectives.loss import Loss
from training.objectives.one_latent import diagonal, distortion


@dataclass(frozen=True)
class Autoencoder:
    """-log p(x|z) at z = the mean. A single latent has no density, so there is no rate, and no bound on log p(x); the
    log_variance that the encoder gives is not trained."""

    @property
    def name(self) -> str:
        return "distortion at the mean"

    def loss(self, model: VAE, images: Tensor, generator: Source, *, autocast: bool) -> Loss:
        latent = diagonal(model, images, autocast=autocast).mean
        mean = distortion(model, images, latent, autocast=autocast).mean()
        return Loss(mean, {"distortion": mean.detach()})
