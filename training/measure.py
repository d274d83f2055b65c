"""Rate, distortion, bounds and active units of a model, over the images of a test set."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from model.bundle.measurements import FEW, Bound, EffectiveSampleSize, Metrics
from model.posteriors import DiagonalGaussian
from model.priors import Prior, StandardNormal
from model.vae import VAE
from training.config import RunConfig
from training.data.dataset import Dataset
from training.estimators import ImageEstimates, encode, estimate_images, mean_over_images
from training.feed import Feed
from training.importance import bound_grid
from training.measured import protocol_of, require_finite
from training.memory import images_at_a_time
from training.objective import binarize
from training.parallel import map_side_by_side
from training.reconstruction import squared_errors
from training.streams import EVALUATION, generator_of

# Burda et al. (2015), section 5.2: a latent dimension is active if the variance of its posterior mean over images
# exceeds this.
ACTIVE_VARIANCE = 0.01


class ImageMeasurements(NamedTuple):
    """What is measured of each of N images, on the CPU."""

    estimates: ImageEstimates
    means: Tensor
    """What stands for each image, ``(N, D)``: the posterior's mean, or what a flow makes of it."""
    divergences: Tensor
    """KL to the prior of each dimension, ``(N, D)`` nats; ``(N, 0)`` where either is no product over them."""
    errors: Tensor
    """Squared error per pixel ``(N,)`` of the reconstruction."""


def measure_images(
    model: VAE, test: Dataset, config: RunConfig, device: torch.device, *, advance: Callable[[int], object]
) -> ImageMeasurements:
    """Each image of a test set by itself; ``advance`` hears of every batch of images that is done.

    The noise of a batch depends on the seed and its place, so the numbers do not depend on the number of threads.
    Dynamic pixels are drawn before any latent, so that all models are measured on the same.

    Raises:
        NonFiniteMetric: something is NaN or infinite for an image.
    """
    evaluation = config.evaluation
    feed = Feed(test, device)
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    at_a_time = images_at_a_time(model, device, workers=workers)
    with torch.inference_mode():
        prior = model.prior(at_a_time=at_a_time)

    def measure_batch(numbered: tuple[int, Tensor]) -> ImageMeasurements:
        index, indices = numbered
        generator = generator_of(device, config.seed, EVALUATION, index)
        return _measure_batch(model, prior, feed.batch(indices), config, generator, at_a_time)

    batches: list[ImageMeasurements] = []
    pieces = list(enumerate(torch.split(torch.arange(len(test)), evaluation.batch_size)))
    for batch in map_side_by_side(measure_batch, pieces, device):
        batches.append(batch)
        advance(len(batch.errors))
    estimates = ImageEstimates(*(torch.cat(parts) for parts in zip(*(b.estimates for b in batches), strict=True)))
    means, errors = torch.cat([batch.means for batch in batches]), torch.cat([batch.errors for batch in batches])
    require_finite({**estimates._asdict(), "posterior_mean": means, "reconstruction_error": errors})
    return ImageMeasurements(estimates, means, torch.cat([batch.divergences for batch in batches]), errors)


def measure(
    model: VAE, test: Dataset, config: RunConfig, device: torch.device, *, step: int, advance: Callable[[int], object]
) -> Metrics:
    """All metrics of a model on a test set; ``advance`` hears of every batch of images that is done.

    Raises:
        NonFiniteMetric: something is NaN or infinite for an image.
    """
    evaluation, binarization = config.evaluation, config.data.binarization
    estimates, means, divergences, errors = measure_images(model, test, config, device, advance=advance)
    support = config.model.likelihood.support
    has_likelihood = support != "binary" or binarization != "none"
    discrete = has_likelihood and support != "interval"
    nats_per_bit_per_image = math.log(2) * math.prod(config.image.shape)
    negative_log_likelihood = -estimates.log_likelihood
    return Metrics(
        rate=mean_over_images(estimates.rate),
        distortion=mean_over_images(estimates.distortion),
        negative_elbo=mean_over_images(estimates.rate + estimates.distortion),
        negative_log_likelihood=mean_over_images(negative_log_likelihood) if has_likelihood else None,
        effective_sample_size=summarized(estimates.effective_sample_size),
        bounds=_curve(estimates.bounds, evaluation.importance_samples) if has_likelihood else (),
        active_units=active_units(means),
        kl_per_dimension=_kl_per_dimension(divergences),
        reconstruction_error=mean_over_images(errors),
        bits_per_dim=mean_over_images(negative_log_likelihood / nats_per_bit_per_image) if discrete else None,
        protocol=protocol_of(test, config, step, evaluation.importance_samples),
    )


@torch.inference_mode()
def _measure_batch(
    model: VAE, prior: Prior, images: Tensor, config: RunConfig, generator: Generator, at_a_time: int
) -> ImageMeasurements:
    evaluation = config.evaluation
    observed = binarize(images, config.data.binarization, generator)
    estimates = estimate_images(
        model,
        observed,
        evaluation.importance_samples,
        generator,
        chunk=evaluation.sample_chunk,
        at_a_time=at_a_time,
        prior=prior,
    )
    posterior = encode(model, observed, at_a_time)
    divergences = posterior.mean.new_empty(len(images), 0)
    if isinstance(prior, StandardNormal) and isinstance(posterior, DiagonalGaussian):
        divergences = posterior.kl()
    errors = squared_errors(model, images, at_a_time)
    return ImageMeasurements(
        ImageEstimates(*(part.cpu() for part in estimates)), posterior.center().cpu(), divergences.cpu(), errors.cpu()
    )


def summarized(sizes: Tensor) -> EffectiveSampleSize:
    """Effective sample sizes ``(N,)`` over the images."""
    few = (sizes < FEW).double().mean().item()
    return EffectiveSampleSize(mean=sizes.mean().item(), minimum=sizes.min().item(), few=few)


def _curve(bounds: Tensor, k: int) -> tuple[Bound, ...]:
    """L_1 to L_k ``(N, grid)`` over the images."""
    points = zip(bound_grid(k), bounds.T, strict=True)
    return tuple(Bound(importance_samples=at, negative=mean_over_images(-bound)) for at, bound in points)


def _kl_per_dimension(divergences: Tensor) -> tuple[float, ...]:
    """Means over images ``(N, D)``."""
    return tuple(divergences.double().mean(0).tolist())


def active_units(means: Tensor) -> int:
    """How many dimensions of the posterior means ``(N, D)`` vary over the images."""
    return int((means.double().var(0) > ACTIVE_VARIANCE).sum())
