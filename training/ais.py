"""log p(x) of a trained model by annealed importance sampling, and how far off that is, on data that the model made.

What these estimates know of a VAE is its decoder and likelihood: no bound becomes loose where the encoder is poor.
"""

from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from model.ais import (
    Annealing,
    AnnealingPath,
    forward_ais,
    geometric_path,
    lower_bound,
    reverse_ais,
    sigmoid_schedule,
    tune,
    upper_bound,
)
from model.posteriors import DiagonalGaussian, FullGaussian
from model.posteriors.families import Diagonal, Full
from model.priors import Prior, StandardNormal
from model.vae import VAE
from training.densities import differentiable_log_likelihood, frozen, path_from_posterior
from training.estimators import encode
from training.importance import effective_sample_size
from training.simulate import simulate

Initial = Literal["prior", "posterior"]

# The mean over a few chains is enough to steer a step size by.
_TUNING_CHAINS = 4


class AnnealingSettings(NamedTuple):
    """How to anneal. From the posterior, the defaults leave a gap of a few hundredths of a nat on MNIST; from the prior
    it takes ten times as many temperatures."""

    chains: int = 16
    """S of each image."""
    temperatures: int = 100
    """T. The cost is about S * N * T * leapfrog_steps gradients of the decoder. Step sizes take as much again with
    these defaults, and a quarter of it from 300 temperatures on."""
    leapfrog_steps: int = 10
    """Gradients a move."""
    initial: Initial = "posterior"
    """Where chains start."""


class AISEstimates(NamedTuple):
    """Per image ``(N,)``."""

    log_likelihood: Tensor
    """A bound in nats: in expectation at most log p(x), rarely more than a few nats above it."""
    effective_sample_size: Tensor
    """Of the weights of the chains, between 1 and their number."""
    acceptance_rate: Tensor
    """Of the moves; far from 0.65 the step sizes were not found."""


class Bracket(NamedTuple):
    """log p(x) of simulated images, from both sides; per image ``(N,)``."""

    lower: Tensor
    """From going forward, in nats."""
    upper: Tensor
    """From going back, in nats."""
    effective_sample_size: Tensor
    """Of the weights from going forward."""

    @property
    def gap(self) -> Tensor:
        """``upper - lower``, nats: the mean over images bounds, in expectation, how far off ``lower`` is."""
        return self.upper - self.lower


def ais_images(
    model: VAE,
    images: Tensor,
    generator: Generator,
    settings: AnnealingSettings,
    *,
    at_a_time: int | None = None,
) -> AISEstimates:
    """Bound log p(x) of images ``(N, C, H, W)`` from below (Wu, Burda, Salakhutdinov and Grosse, 2017).

    From the prior, whichever it is, chains move in the latent space. From the posterior, they move in the space of its
    noise (:func:`training.densities.path_from_posterior`), where fewer temperatures are enough.

    Args:
        model: in evaluation mode.
        images: as its likelihood wants them; binary for a Bernoulli.
        generator: on the device of the images.
        settings: how to anneal.
        at_a_time: how many latents are decoded at a time (absent: all). It decides how much memory that takes, and not
            which numbers come out.

    Raises:
        ValueError: no chain or no temperature.
    """
    _check(settings)
    with frozen(model):
        path, first = _path(model, images, settings.initial, at_a_time or settings.chains * len(images))
        annealing = _tune(path, first, images, generator, settings)
        start = _draw(first, settings.chains, images, generator)
        annealed = forward_ais(path, start, generator, annealing)
    return AISEstimates(
        lower_bound(annealed.log_weights), effective_sample_size(annealed.log_weights), annealed.acceptance_rate
    )


def bracket(
    model: VAE,
    count: int,
    generator: Generator,
    settings: AnnealingSettings,
    *,
    at_a_time: int | None = None,
) -> Bracket:
    """Bidirectional Monte Carlo (Grosse, Ghahramani and Adams, 2015): log p(x) of simulated images, from both sides.

    Real images have no exact posterior sample, so no upper bound. If the gap is small on simulated ones, and real ones
    are not much harder, then the lower bound of these is good too (Wu et al., 2017).

    Args:
        model: in evaluation mode.
        count: images, of which the mean gap is to be taken.
        generator: on the device of the model.
        settings: how to anneal; ``initial="posterior"`` is for models of which :func:`reversible` says so.
        at_a_time: as for :func:`ais_images`.

    Raises:
        ValueError: no chain or no temperature, or the posterior is a flow: chains from it move in the space of its
            noise, and the noise that becomes a given latent is not computed.
    """
    _check(settings)
    if settings.initial == "posterior" and not reversible(model):
        raise ValueError("chains go back to the prior or to a Gaussian, and not to a flow")
    with frozen(model):
        images, latents = simulate(model, count, generator)
        path, first = _path(model, images, settings.initial, at_a_time or settings.chains * count)
        exact = latents if settings.initial == "prior" else _noise(model, images, latents, at_a_time or count)
        annealing = _tune(path, first, images, generator, settings)
        start = _draw(first, settings.chains, images, generator)
        forward = forward_ais(path, start, generator, annealing)
        back = reverse_ais(path, exact.expand(settings.chains, -1, -1), generator, annealing)
    return Bracket(
        lower_bound(forward.log_weights), upper_bound(back.log_weights), effective_sample_size(forward.log_weights)
    )


def reversible(model: VAE) -> bool:
    """Whether chains of simulated images can go back to the model's posterior: to a Gaussian."""
    return isinstance(model.family, Diagonal | Full)


def _noise(model: VAE, images: Tensor, latents: Tensor, at_a_time: int) -> Tensor:
    """The noise ``(N, D)`` of which the posterior makes these latents."""
    with torch.no_grad():
        posterior = encode(model, images, at_a_time)
    if not isinstance(posterior, DiagonalGaussian | FullGaussian):
        raise TypeError("the noise of a flow's latent is not computed")
    return posterior.noise(latents)


def _tune(
    path: AnnealingPath, first: Prior, images: Tensor, generator: Generator, settings: AnnealingSettings
) -> Annealing:
    start = _draw(first, min(settings.chains, _TUNING_CHAINS), images, generator)
    schedule = sigmoid_schedule(settings.temperatures)
    return tune(path, start, generator, schedule=schedule, leapfrog_steps=settings.leapfrog_steps)


def _path(model: VAE, images: Tensor, initial: Initial, at_a_time: int) -> tuple[AnnealingPath, Prior]:
    """The path, and the distribution that it begins with."""
    if initial == "prior":
        prior = model.prior(at_a_time=at_a_time)
        return geometric_path(prior.log_density, differentiable_log_likelihood(model, images, at_a_time)), prior
    with torch.no_grad():
        posterior = encode(model, images, at_a_time)
    return path_from_posterior(model, posterior, images, at_a_time), StandardNormal(model.latent_dim)


def _draw(first: Prior, chains: int, images: Tensor, generator: Generator) -> Tensor:
    """Where chains start, ``(S, N, D)``."""
    latents = first.sample(chains * len(images), generator).to(images)
    return torch.unflatten(latents, 0, (chains, len(images)))


def _check(settings: AnnealingSettings) -> None:
    if settings.chains < 1:
        raise ValueError(f"there must be at least one chain, not {settings.chains}")
