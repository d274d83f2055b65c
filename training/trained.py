"""A trained VAE with the interface of a bundle: what export compares with, and figures draw."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import convert_conv2d_weight_memory_format

from model.bundle import prior
from model.bundle.runtime import Draws, Posterior
from model.posteriors import DiagonalGaussian
from model.priors import Mixture
from model.vae import VAE
from training.checkpoint import load_average, progress_of
from training.config import RunConfig
from training.errors import CheckpointError
from training.run import RunFolder

Floats = NDArray[np.float32]

# Pseudo-inputs that are encoded at a time.
_AT_A_TIME = 100


@dataclass(frozen=True)
class TorchModel:
    """float32 arrays in and out, on the CPU."""

    vae: VAE

    def encode(self, images: Floats) -> Posterior:
        """The base and the further parameters of q(z|x) for images ``(N, C, H, W)`` in [0, 1]."""
        with torch.inference_mode():
            base, parameters = self.vae.family.split(self.vae.encoder(torch.from_numpy(images)))
            return Posterior(*(part.numpy() for part in (*base, self.vae.family.settled(parameters))))

    def draw(self, posterior: Posterior, noise: Floats) -> Draws:
        """The latents that standard normal noise ``(N, D)`` becomes, with their log density."""
        with torch.inference_mode():
            mean, log_variance, parameters = map(torch.from_numpy, posterior)
            base = DiagonalGaussian(mean, log_variance)
            drawn = self.vae.family.of_settled(base, parameters).draw(torch.from_numpy(noise))
            return Draws(drawn.latent.numpy(), drawn.log_density.numpy())

    def center(self, posterior: Posterior) -> Floats:
        """The one latent ``(N, D)`` that stands for each image."""
        return self.draw(posterior, np.zeros_like(posterior.mean)).latent

    def log_likelihood(self, latents: Floats, images: Floats) -> Floats:
        """log p(x|z) ``(N,)`` in nats."""
        with torch.inference_mode():
            parameters = self.vae.decode(torch.from_numpy(latents))
            found: Floats = self.vae.likelihood.log_prob(parameters, torch.from_numpy(images)).numpy()
        return found

    def decode(self, latents: Floats) -> Floats:
        """Mean images ``(N, C, H, W)`` in [0, 1] of latents ``(N, D)``."""
        with torch.inference_mode():
            images: Floats = self.vae.mean_image(torch.from_numpy(latents)).numpy()
        return images

    @property
    def prior(self) -> prior.Prior:
        """p(z) as it would be served."""
        if self.vae.pseudo_inputs is None:
            return prior.StandardNormal(self.vae.latent_dim)
        return prior.Mixture(*prior_components(self.vae))


def prior_components(model: VAE) -> tuple[Floats, Floats]:
    """mean and log_variance ``(K, D)`` of the components of a VampPrior, on the CPU.

    Raises:
        ValueError: the model's prior is no mixture.
    """
    with torch.inference_mode():
        components = model.prior(at_a_time=_AT_A_TIME)
    if not isinstance(components, Mixture):
        raise ValueError("a standard normal prior has no components")
    mean, log_variance = (part.float().cpu().numpy() for part in components)
    return mean, log_variance


def load_best_into(run: RunFolder, vae: VAE) -> int:
    """Load the averaged weights that validation judged best, as `training.objectives.choice` says; the step of them.

    Raises:
        CheckpointError: there is no usable checkpoint of them, or no validation yet that could have chosen any.
    """
    if not run.best.exists() and not (run.last.exists() and progress_of(run.last).finished):
        raise CheckpointError(
            f"{run.folder}: not validated yet, so no weights are the best: resume it first "
            f"(vae train {run.folder} --resume)"
        )
    return load_average(run.best, vae)


def load_best_to_measure(run: RunFolder, config: RunConfig, device: torch.device) -> tuple[VAE, int]:
    """The model of a run with these weights, on a device and as it computes fastest there, and the step they are from.

    Raises:
        CheckpointError: as in `load_best_into`.
    """
    model = VAE(config.model, config.image.shape)
    step = load_best_into(run, model)
    model.to(device).eval().requires_grad_(False)
    # Convolutions on few channels are faster with the channels last.
    convert_conv2d_weight_memory_format(model, torch.channels_last)
    return model, step


def load_best(run: RunFolder) -> tuple[TorchModel, int]:
    """The averaged weights of a run that validation judged best, and the step they are from.

    Raises:
        ConfigError, CheckpointError: there is no run, or no usable checkpoint in it.
    """
    config = run.config()
    vae = VAE(config.model, config.image.shape)
    step = load_best_into(run, vae)
    return TorchModel(vae.float().eval().requires_grad_(False)), step
