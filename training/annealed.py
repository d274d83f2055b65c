"""log p(x) of test images by annealed importance sampling, beside L_k of the same images: a part of metrics.json."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from model.bundle.measurements import Annealing, AnnealingProtocol
from model.vae import VAE
from training.ais import AISEstimates, AnnealingSettings, Bracket, ais_images, bracket, reversible
from training.config import RunConfig
from training.estimators import mean_over_images
from training.measure import summarized
from training.measured import protocol_of, require_finite
from training.streams import ANNEALING, SIMULATION
from training.subset import Subset, latents_at_a_time


class Annealed(NamedTuple):
    """What was found."""

    metrics: Annealing
    log_likelihood: Tensor
    """Of each image of the subset, ``(N,)`` nats, in their order."""


def measure_annealing(
    model: VAE,
    subset: Subset,
    config: RunConfig,
    settings: AnnealingSettings,
    bound: Tensor,
    *,
    k: int,
    step: int,
    advance: Callable[[int], object],
) -> Annealed:
    """Anneal the images of a subset, and as many that the model makes, of which log p(x) is bracketed.

    Args:
        bound: L_k of each image of the subset, ``(N,)`` nats; of the same pixels.
        k: of that bound.
        step: of the weights.
        advance: hears of every piece of images that is done: test images, then simulated ones.

    Raises:
        NonFiniteMetric: the model gives NaN or infinity.
    """
    at_a_time = latents_at_a_time(model, subset.device, gradients=True)
    # The exact sample of a simulated image is a latent, and a flow does not say of which noise it is.
    going_back = settings if reversible(model) else settings._replace(initial="prior")

    def anneal(images: Tensor, generator: Generator, index: int) -> AISEstimates:
        return ais_images(model, images, generator, settings, at_a_time=at_a_time)

    def both_ways(images: Tensor, generator: Generator, index: int) -> Bracket:
        return bracket(model, len(images), generator, going_back, at_a_time=at_a_time)

    estimates = list(subset.map(anneal, advance, ANNEALING))
    log_likelihood, sizes, accepted = (torch.cat(parts).cpu().double() for parts in zip(*estimates, strict=True))
    gap = torch.cat([found.gap for found in subset.map(both_ways, advance, SIMULATION)]).cpu()
    require_finite({"annealed log likelihood": log_likelihood, "gap of simulated images": gap})
    discrete = config.model.likelihood.support != "interval"
    bits = -log_likelihood / math.log(2) / math.prod(config.image.shape)
    protocol = protocol_of(subset.dataset, config, step, importance_samples=k)
    return Annealed(
        Annealing(
            negative_log_likelihood=mean_over_images(-log_likelihood),
            bits_per_dim=mean_over_images(bits) if discrete else None,
            difference=mean_over_images(log_likelihood - bound),
            effective_sample_size=summarized(sizes),
            acceptance_rate=accepted.mean().item(),
            gap=mean_over_images(gap),
            protocol=AnnealingProtocol(
                **protocol.model_dump(),
                **settings._asdict(),
                simulated_images=len(gap),
                simulated_initial=going_back.initial,
            ),
        ),
        log_likelihood,
    )
