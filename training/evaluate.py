"""Measure a trained model on its test split, and write metrics.json with the protocol."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from torch import Generator, Tensor

from model.bundle.files import write_text_atomically
from model.bundle.manifest import EffectiveSampleSize, Estimate, Metrics, Protocol
from model.vae import VAE
from training.checkpoint import load_average
from training.config import RunConfig, check
from training.data.dataset import Dataset
from training.data.load import load_test
from training.device import choose_device, prepare
from training.estimators import ImageEstimates, estimate_images
from training.feed import Feed
from training.objective import binarize
from training.observers import DataProgress
from training.run import RunFolder, git_commit, library_versions

# Burda et al. (2015), section 5.2: a latent dimension is active if the variance of its posterior mean over images
# exceeds this.
ACTIVE_VARIANCE = 0.01
_Z_95 = 1.959964


def evaluate_run(
    run: RunFolder,
    *,
    data_dir: Path | None,
    console: Console,
    importance_samples: int | None = None,
    images: int | None = None,
) -> Metrics:
    """Evaluate the best weights of a run on the test split, print a table, write metrics.json.

    Args:
        importance_samples: k, instead of the configuration's.
        images: only the first so many test images, instead of the configuration's number.

    Raises:
        ConfigError, DataError, CheckpointError: as their docstrings say.
    """
    config = _with_overrides(run.config(), importance_samples=importance_samples, images=images)
    device = choose_device(config.device)
    prepare(device, config.threads)
    model = VAE(config.model, config.image.shape)
    load_average(run.best, model)
    model.to(device).eval().requires_grad_(False)
    with DataProgress(console) as progress:
        test = load_test(config.data, config.image, seed=config.seed, data_dir=data_dir, progress=progress)
    if config.evaluation.images is not None:
        test = test.subset(np.arange(min(config.evaluation.images, len(test))))
    with Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task(f"L_{config.evaluation.importance_samples} of {test.name}", total=len(test))
        metrics = measure(model, test, config, device, advance=lambda count: bar.advance(task, count))
    write_text_atomically(run.metrics_file, metrics.model_dump_json(indent=2) + "\n")
    console.print(summary(metrics))
    if metrics.negative_log_likelihood is None:
        console.print(
            "Grey or colour values under a Bernoulli: -ELBO is what was minimized, and bounds no likelihood.",
            highlight=False,
        )
    return metrics


def measure(
    model: VAE, test: Dataset, config: RunConfig, device: torch.device, *, advance: Callable[[int], object]
) -> Metrics:
    """All metrics of a model on a test set; ``advance`` hears of every batch of images that is done."""
    evaluation, binarization = config.evaluation, config.data.binarization
    # Noise of its own, apart from training (seed) and validation (seed + 1).
    generator = Generator(device).manual_seed(config.seed + 2)
    estimates: list[ImageEstimates] = []
    means: list[Tensor] = []
    divergences: list[Tensor] = []
    errors: list[Tensor] = []
    for images in Feed(test, device).in_order(evaluation.batch_size):
        observed = binarize(images, binarization, generator)
        k, chunk = evaluation.importance_samples, evaluation.sample_chunk
        estimates.append(
            ImageEstimates(*(part.cpu() for part in estimate_images(model, observed, k, generator, chunk=chunk)))
        )
        with torch.inference_mode():
            posterior = model.posterior(observed)
            means.append(posterior.mean.cpu())
            divergences.append(posterior.kl().cpu())
            # As served: pictures are encoded with their grey values.
            reconstruction = model.mean_image(model.posterior(images).mean)
            errors.append((reconstruction - images).square().mean((1, 2, 3)).cpu())
        advance(len(images))
    log_likelihood, distortion, rate, sample_size = (torch.cat(parts) for parts in zip(*estimates, strict=True))
    has_likelihood = config.model.likelihood.family != "bernoulli" or binarization != "none"
    discrete = config.model.likelihood.family == "bernoulli" and binarization != "none"
    nats_per_bit_per_image = math.log(2) * math.prod(config.image.shape)
    return Metrics(
        rate=_estimate(rate),
        distortion=_estimate(distortion),
        negative_elbo=_estimate(rate + distortion),
        negative_log_likelihood=_estimate(-log_likelihood) if has_likelihood else None,
        effective_sample_size=EffectiveSampleSize(mean=sample_size.mean().item(), minimum=sample_size.min().item()),
        active_units=_active_units(torch.cat(means)),
        kl_per_dimension=tuple(torch.cat(divergences).double().mean(0).tolist()),
        reconstruction_error=_estimate(torch.cat(errors)),
        bits_per_dim=_estimate(-log_likelihood / nats_per_bit_per_image) if discrete else None,
        protocol=Protocol(
            dataset=test.name,
            split=test.split,
            images=len(test),
            binarization=binarization,
            importance_samples=evaluation.importance_samples,
            seed=config.seed,
            git_commit=git_commit(),
            libraries=library_versions(),
        ),
    )


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
        ("reconstruction error", metrics.reconstruction_error, "squared, per pixel"),
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
    table.add_row("active units", str(metrics.active_units), "", f"of {len(metrics.kl_per_dimension)}")
    return table


def _estimate(values: Tensor) -> Estimate:
    """Mean over images with the normal 95% interval of the mean; a single image has no interval of its own and gets its
    value."""
    values = values.double()
    mean = values.mean().item()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(value=mean, low=mean - _Z_95 * error, high=mean + _Z_95 * error)


def _active_units(means: Tensor) -> int:
    """How many dimensions of the posterior means ``(N, D)`` vary over the images; none over a single image."""
    return int((means.double().var(0) > ACTIVE_VARIANCE).sum()) if len(means) > 1 else 0


def _with_overrides(config: RunConfig, **wishes: int | None) -> RunConfig:
    given = {name: value for name, value in wishes.items() if value is not None}
    return check(config.model_dump() | {"evaluation": config.evaluation.model_dump() | given}, "evaluation")
