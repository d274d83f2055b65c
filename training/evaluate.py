"""Measure a trained model on its test split, and write metrics.json with the protocol."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor
from torch.nn.utils import convert_conv2d_weight_memory_format

from model.bundle.files import write_text_atomically
from model.bundle.manifest import EffectiveSampleSize, Estimate, Metrics, Protocol
from model.posteriors import DiagonalGaussian
from model.priors import Prior, StandardNormal
from model.vae import VAE
from training.config import RunConfig, check
from training.data.dataset import Dataset
from training.data.splits import choose
from training.device import choose_device, prepare
from training.errors import ConfigError, DataError, NonFiniteMetric
from training.estimators import ImageEstimates, encode, estimate_images, mean_over_images
from training.feed import Feed
from training.images import held_out_images
from training.memory import images_at_a_time
from training.objective import binarize
from training.observers import EvaluationProgress
from training.parallel import map_side_by_side
from training.reconstruction import Reconstruction, pixel, reconstruction_table, squared_errors
from training.run import RunFolder, git_commit, library_versions
from training.trained import load_best_into
from training.words import count, say

# Burda et al. (2015), section 5.2: a latent dimension is active if the variance of its posterior mean over images
# exceeds this.
ACTIVE_VARIANCE = 0.01
_MEASURED: TypeAdapter[Metrics | Reconstruction] = TypeAdapter(Metrics | Reconstruction)


def evaluate_run(
    run: RunFolder,
    *,
    data_dir: Path | None,
    console: Console,
    importance_samples: int | None = None,
    images: int | None = None,
) -> Metrics | Reconstruction:
    """Evaluate the best weights of a run on the test split, print a table, write metrics.json.

    A metrics.json of more images or more importance samples of these weights stays. Of a plain autoencoder there is
    nothing to measure but its reconstructions.

    Args:
        importance_samples: k, instead of the configuration's.
        images: so many test images, drawn by the seed, instead of the configuration's number.

    Raises:
        ConfigError, DataError, CheckpointError, NonFiniteMetric: as their docstrings say.
    """
    config = _with_overrides(run.config(), importance_samples=importance_samples, images=images)
    plain = config.objective.kind == "autoencoder"
    if plain and importance_samples is not None:
        raise ConfigError(f"{run.folder}: an autoencoder has no bound that takes importance samples")
    device = choose_device(config.device)
    prepare(device, config.threads)
    model = VAE(config.model, config.image.shape)
    step = load_best_into(run, model)
    model.to(device).eval().requires_grad_(False)
    # Convolutions on few channels are faster with the channels last.
    convert_conv2d_weight_memory_format(model, torch.channels_last)
    test = held_out_images(run, data_dir=data_dir, console=console)
    if len(test) < 2:
        raise DataError(f"{test.name}: one test image says nothing of others: two or more are needed to measure")
    test = _part(test, config)
    what = "reconstruction error" if plain else f"L_{config.evaluation.importance_samples}"
    metrics: Metrics | Reconstruction
    with EvaluationProgress(f"{what} of {test.name}", len(test), console) as progress:
        if plain:
            metrics = measure_reconstruction(model, test, config, device, step=step, advance=progress)
        else:
            metrics = measure(model, test, config, device, step=step, advance=progress)
    kept = _weightier(run, metrics.protocol)
    if kept is None:
        write_text_atomically(run.metrics_file, metrics.model_dump_json(indent=2) + "\n")
    console.print(reconstruction_table(metrics) if isinstance(metrics, Reconstruction) else summary(metrics))
    if kept is not None:
        say(
            console,
            f"Not written: {run.metrics_file} keeps what was measured on {count(kept.images, 'image')}"
            + (f" with {count(kept.importance_samples, 'importance sample')} each" if kept.importance_samples else "")
            + ".",
        )
    if isinstance(metrics, Reconstruction):
        console.print("A plain autoencoder has no rate, no ELBO and no likelihood.", highlight=False)
    elif metrics.negative_log_likelihood is None:
        console.print(
            "Grey or colour values under a Bernoulli: -ELBO is what was minimized, and bounds no likelihood.",
            highlight=False,
        )
    return metrics


def _weightier(run: RunFolder, protocol: Protocol) -> Protocol | None:
    """The protocol of metrics.json where it is of the same weights and says more than this one: a quick look at a few
    images must not cost the hours of a measurement."""
    try:
        stored = _MEASURED.validate_json(run.metrics_file.read_bytes()).protocol
    except (FileNotFoundError, ValidationError):  # nothing, or nothing that could be used
        return None
    size, samples = protocol.images, protocol.importance_samples or 0
    more = stored.images > size or (stored.importance_samples or 0) > samples
    return stored if more and stored.step == protocol.step else None


def measure(
    model: VAE, test: Dataset, config: RunConfig, device: torch.device, *, step: int, advance: Callable[[int], object]
) -> Metrics:
    """All metrics of a model on a test set; ``advance`` hears of every batch of images that is done.

    The noise of a batch depends on the seed and its place, so the numbers do not depend on the number of threads.
    """
    evaluation, binarization = config.evaluation, config.data.binarization
    feed = Feed(test, device)
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    at_a_time = images_at_a_time(model, device, workers=workers)
    with torch.inference_mode():
        prior = model.prior(at_a_time=at_a_time)

    def measure_batch(numbered: tuple[int, Tensor]) -> _Batch:
        index, indices = numbered
        generator = Generator(device).manual_seed(_batch_seed(config.seed, index))
        return _measure_batch(model, prior, feed.batch(indices), config, generator, at_a_time)

    batches: list[_Batch] = []
    pieces = list(enumerate(torch.split(torch.arange(len(test)), evaluation.batch_size)))
    for batch in map_side_by_side(measure_batch, pieces, device):
        batches.append(batch)
        advance(len(batch.errors))
    estimates = ImageEstimates(*(torch.cat(parts) for parts in zip(*(b.estimates for b in batches), strict=True)))
    means, errors = torch.cat([batch.means for batch in batches]), torch.cat([batch.errors for batch in batches])
    _require_finite({**estimates._asdict(), "posterior_mean": means, "reconstruction_error": errors})
    support = config.model.likelihood.support
    has_likelihood = support != "binary" or binarization != "none"
    discrete = has_likelihood and support != "interval"
    nats_per_bit_per_image = math.log(2) * math.prod(config.image.shape)
    negative_log_likelihood = -estimates.log_likelihood
    sample_size = estimates.effective_sample_size
    return Metrics(
        rate=mean_over_images(estimates.rate),
        distortion=mean_over_images(estimates.distortion),
        negative_elbo=mean_over_images(estimates.rate + estimates.distortion),
        negative_log_likelihood=mean_over_images(negative_log_likelihood) if has_likelihood else None,
        effective_sample_size=EffectiveSampleSize(mean=sample_size.mean().item(), minimum=sample_size.min().item()),
        active_units=_active_units(means),
        kl_per_dimension=_kl_per_dimension(torch.cat([batch.divergences for batch in batches])),
        reconstruction_error=mean_over_images(errors),
        bits_per_dim=mean_over_images(negative_log_likelihood / nats_per_bit_per_image) if discrete else None,
        protocol=_protocol(test, config, step, evaluation.importance_samples),
    )


def measure_reconstruction(
    model: VAE, test: Dataset, config: RunConfig, device: torch.device, *, step: int, advance: Callable[[int], object]
) -> Reconstruction:
    """The reconstruction error of a plain autoencoder on a test set; ``advance`` as of ``measure``."""
    feed = Feed(test, device)
    at_a_time = images_at_a_time(model, device, workers=1)
    errors: list[Tensor] = []
    with torch.inference_mode():
        for images in feed.in_order(config.evaluation.batch_size):
            errors.append(squared_errors(model, images, at_a_time).cpu())
            advance(len(images))
    found = torch.cat(errors)
    _require_finite({"reconstruction_error": found})
    return Reconstruction(
        reconstruction_error=mean_over_images(found), protocol=_protocol(test, config, step, importance_samples=None)
    )


def _protocol(test: Dataset, config: RunConfig, step: int, importance_samples: int | None) -> Protocol:
    return Protocol(
        dataset=test.name,
        split=test.split,
        images=len(test),
        binarization=config.data.binarization,
        importance_samples=importance_samples,
        seed=config.seed,
        step=step,
        git_commit=git_commit(),
        libraries=library_versions(),
    )


def _require_finite(measured: dict[str, Tensor]) -> None:
    """Raise NonFiniteMetric, naming the first of these, by image in the first axis, that is not finite."""
    for name, values in measured.items():
        bad = int((~values.isfinite()).reshape(len(values), -1).any(1).sum())
        if bad:
            raise NonFiniteMetric(
                f"{name.replace('_', ' ')}: NaN or infinite for {bad} of {len(values)} test images: these weights are "
                "of no use; train another run with a lower optimization.learning_rate or a gradient_clip"
            )


def _part(test: Dataset, config: RunConfig) -> Dataset:
    """As many test images as are to be measured; where these are not all, the name says what they were drawn from."""
    wanted = config.evaluation.images
    if wanted is None or wanted >= len(test):
        return test
    chosen = test.subset(choose(len(test), wanted, config.seed))
    return replace(chosen, name=f"{test.name} (drawn at random from {len(test):,})")


class _Batch(NamedTuple):
    """What is measured of B images, on the CPU."""

    estimates: ImageEstimates
    means: Tensor
    """What stands for each image, ``(B, D)``: the posterior's mean, or what a flow makes of it."""
    divergences: Tensor
    """KL to the prior of each dimension, ``(B, D)`` nats; ``(B, 0)`` where either is no product over them."""
    errors: Tensor
    """Squared error per pixel ``(B,)`` of the reconstruction."""


@torch.inference_mode()
def _measure_batch(
    model: VAE, prior: Prior, images: Tensor, config: RunConfig, generator: Generator, at_a_time: int
) -> _Batch:
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
    return _Batch(
        ImageEstimates(*(part.cpu() for part in estimates)), posterior.center().cpu(), divergences.cpu(), errors.cpu()
    )


def _batch_seed(seed: int, batch: int) -> int:
    """A stream for each batch, apart from those of training (seed) and validation (seed + 1)."""
    return int(np.random.SeedSequence((seed, 2, batch)).generate_state(1, np.uint64)[0] >> 1)


def summary(metrics: Metrics) -> Table:
    """The metrics as a table for a terminal."""
    protocol = metrics.protocol
    title = f"{protocol.dataset}, {protocol.split} split, {protocol.images:,} images"
    table = Table(title=f"{title}, binarization {protocol.binarization}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    table.add_column("unit")
    rows: list[tuple[str, Estimate | None, str]] = [
        ("rate", metrics.rate, "nats/image"),
        ("distortion", metrics.distortion, "nats/image"),
        ("-ELBO", metrics.negative_elbo, "nats/image"),
        (f"-L_{protocol.importance_samples}", metrics.negative_log_likelihood, "nats/image"),
        ("bits/dim", metrics.bits_per_dim, "bits"),
        ("reconstruction error", metrics.reconstruction_error, f"squared, per {pixel(protocol)}"),
    ]
    for name, estimate, unit in rows:
        if estimate is not None:
            digits = 2 if unit == "nats/image" else 4
            table.add_row(
                name, f"{estimate.value:.{digits}f}", f"{estimate.low:.{digits}f} .. {estimate.high:.{digits}f}", unit
            )
    if metrics.effective_sample_size is not None:
        size = metrics.effective_sample_size
        table.add_row(
            "effective sample size",
            f"{size.mean:.1f}",
            f"smallest {size.minimum:.1f}",
            f"of {protocol.importance_samples}",
        )
    table.add_row("active units", str(metrics.active_units), "", _of_dimensions(metrics))
    return table


def _of_dimensions(metrics: Metrics) -> str:
    return f"of {len(metrics.kl_per_dimension)}" if metrics.kl_per_dimension else "latent dimensions"


def _kl_per_dimension(divergences: Tensor) -> tuple[float, ...]:
    """Means over images ``(N, D)``."""
    return tuple(divergences.double().mean(0).tolist())


def _active_units(means: Tensor) -> int:
    """How many dimensions of the posterior means ``(N, D)`` vary over the images."""
    return int((means.double().var(0) > ACTIVE_VARIANCE).sum())


def _with_overrides(config: RunConfig, **wishes: int | None) -> RunConfig:
    given = {name: value for name, value in wishes.items() if value is not None}
    return check(config.model_dump() | {"evaluation": config.evaluation.model_dump() | given}, "evaluation")
