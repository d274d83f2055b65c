"""Measure a trained model on its test split, and write metrics.json with the protocol."""

from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch.nn.utils import convert_conv2d_weight_memory_format

from model.bundle.files import write_text_atomically
from model.bundle.measurements import Metrics
from model.vae import VAE
from training.config import RunConfig, check
from training.data.dataset import Dataset
from training.data.splits import choose
from training.device import choose_device, prepare
from training.errors import ConfigError, DataError
from training.images import held_out_images
from training.measure import measure
from training.metrics_file import weightier
from training.observers import EvaluationProgress
from training.reconstruction import Reconstruction, measure_reconstruction, reconstruction_table
from training.run import RunFolder
from training.summary import summary
from training.trained import load_best_into
from training.words import count, say


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
    kept = weightier(run, metrics.protocol)
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


def _part(test: Dataset, config: RunConfig) -> Dataset:
    """As many test images as are to be measured; where these are not all, the name says what they were drawn from."""
    wanted = config.evaluation.images
    if wanted is None or wanted >= len(test):
        return test
    chosen = test.subset(choose(len(test), wanted, config.seed))
    return replace(chosen, name=f"{test.name} (drawn at random from {len(test):,})")


def _with_overrides(config: RunConfig, **wishes: int | None) -> RunConfig:
    given = {name: value for name, value in wishes.items() if value is not None}
    return check(config.model_dump() | {"evaluation": config.evaluation.model_dump() | given}, "evaluation")
