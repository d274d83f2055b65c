"""A trained VAE with the interface of a bundle: what export compares with, and figures draw."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import prior
from model.bundle.runtime import Posterior
from model.priors import Mixture
from model.vae import VAE
from training.checkpoint import load_average, progress_of
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
        """What stands for images ``(N, C, H, W)`` in [0, 1], and the log_variance, ``(N, D)`` both: of a Gaussian its
        mean, of a flow what the mean of its base becomes."""
        with torch.inference_mode():
            posterior = self.vae.posterior(torch.from_numpy(images))
            return Posterior(posterior.center().numpy(), posterior.log_variance.numpy())

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
    """Load the averaged weights with the lowest validation -ELBO of a run; the step they are from.

    Raises:
        CheckpointError: there is no usable checkpoint of them, or no validation yet that could have chosen any.
    """
    if not run.best.exists() and not (run.last.exists() and progress_of(run.last).finished):
        raise CheckpointError(
            f"{run.folder}: not validated yet, so no weights are the best: resume it first "
            f"(vae train {run.folder} --resume)"
        )
    return load_average(run.best, vae)


def load_best(run: RunFolder) -> tuple[TorchModel, int]:
    """The averaged weights with the lowest validation -ELBO of a run, and the step they are from.

    Raises:
        ConfigError, CheckpointError: there is no run, or no usable checkpoint in it.
    """
    config = run.config()
    vae = VAE(config.model, config.image.shape)
    step = load_best_into(run, vae)
    return TorchModel(vae.float().eval().requires_grad_(False)), step
