"""log p(x) of a trained model by annealed importance sampling, and how far off that is, on data that the model made.

What these estimates know of a VAE is its decoder and likelihood: no bound becomes loose where the encoder is poor.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
from model.divergences import LogDensity
from model.posteriors import DiagonalGaussian, FullGaussian
from model.posteriors.families import Diagonal, Full
from model.priors import Prior, StandardNormal
from model.vae import VAE
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
    """T. The cost is about S * N * T * leapfrog_steps gradients of the decoder, and a quarter more for step sizes."""
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

    From the prior, whichever it is, chains move in the latent space. From the posterior, they move in the space of the
    noise that the posterior's draws are made of, where those are N(0, I) whatever its family, flows included; the true
    posterior is nearly round there, and fewer temperatures are enough (as Hoffman et al., 2019, "NeuTra-lizing bad
    geometry").

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
    with _frozen(model):
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
            noise, and the noise that becomes a given latent is not known.
    """
    _check(settings)
    if settings.initial == "posterior" and not reversible(model):
        raise ValueError("chains go back to the prior or to a Gaussian, and not to a flow")
    with _frozen(model):
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
        raise TypeError("the noise of a flow's latent is not known")
    return posterior.noise(latents)


def _tune(
    path: AnnealingPath, first: Prior, images: Tensor, generator: Generator, settings: AnnealingSettings
) -> Annealing:
    start = _draw(first, min(settings.chains, _TUNING_CHAINS), images, generator)
    schedule = sigmoid_schedule(settings.temperatures)
    return tune(path, start, generator, schedule=schedule, leapfrog_steps=settings.leapfrog_steps)


def _path(model: VAE, images: Tensor, initial: Initial, at_a_time: int) -> tuple[AnnealingPath, Prior]:
    """The path, and the distribution that it begins with."""
    log_likelihood = differentiable_log_likelihood(model, images, at_a_time)
    prior = model.prior(at_a_time=at_a_time)
    if initial == "prior":
        return geometric_path(prior.log_density, log_likelihood), prior
    with torch.no_grad():
        posterior = encode(model, images, at_a_time)

    def log_ratio(noise: Tensor) -> Tensor:
        latents, log_density = posterior.draw(noise)
        return log_likelihood(latents) + prior.log_density(latents) - log_density

    noises = StandardNormal(model.latent_dim)
    return AnnealingPath(noises.log_density, log_ratio), noises


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
def _frozen(model: VAE) -> Iterator[None]:
    """No graph for parameters: what their gradients need would be kept too."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def _draw(first: Prior, chains: int, images: Tensor, generator: Generator) -> Tensor:
    """Where chains start, ``(S, N, D)``."""
    latents = first.sample(chains * len(images), generator).to(images)
    return torch.unflatten(latents, 0, (chains, len(images)))


def _check(settings: AnnealingSettings) -> None:
    if settings.chains < 1:
        raise ValueError(f"there must be at least one chain, not {settings.chains}")
