"""Runs side by side: what is drawn and measured of each, and where it goes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from training.comparison import (
    Comparison,
    RunNumbers,
    check_comparable,
    compared,
    comparison_table,
    names_of,
    numbers_of,
    rows_of,
    write_comparison,
)
from training.data.dataset import Dataset
from training.data.splits import choose
from training.errors import DataError
from training.figures.columns import Column, comparison_page
from training.figures.page import constant_style, write_figures
from training.figures.panels import SEED, Bytes, decode_latents, encode_images
from training.figures.plane import plane_of
from training.images import training_images
from training.observers import EvaluationProgress
from training.run import RunFolder
from training.showcase import showcase
from training.trained import TorchModel, load_best
from training.words import say

# As many as a figure of one run encodes.
_MOST_IMAGES = 2000


def draw_comparison(
    runs: Sequence[RunFolder], folder: Path, *, data_dir: Path | None, console: Console
) -> tuple[Comparison, list[Path]]:
    """Compare runs on the same validation images: print a table, write comparison.png and comparison.json.

    Returns:
        What was measured, and the files.

    Raises:
        ConfigError, CheckpointError, DataError: as ``check_comparable`` says; or a run has no usable checkpoint, or not
            its data; there is one validation image only; the folder cannot be written.
        ModelFault, NonFiniteMetric: a model gives NaN or infinity.
    """
    check_comparable(runs)
    # All of them first: what is missing should not be found out after the others were measured.
    models = [load_best(run) for run in runs]
    config = runs[0].config()
    _, validation = training_images(runs[0], data_dir=data_dir, console=console)
    if len(validation) < 2:
        raise DataError(f"{validation.name}: one validation image says nothing of others: two or more are needed")
    many = validation.subset(choose(len(validation), _MOST_IMAGES, config.seed))
    originals = _originals(validation)
    measured, columns = [], []
    with EvaluationProgress("images of all runs", len(runs) * len(many), console) as progress:
        for run, name, (model, step) in zip(runs, names_of(runs), models, strict=True):
            own = run.config()
            numbers = numbers_of(name, own, model.vae, step, many, seed=config.seed, advance=progress)
            measured.append(numbers)
            columns.append(_column(model, numbers, originals, many, plain=own.objective.kind == "autoencoder"))
    comparison = compared(many, config, measured)
    with constant_style():
        files = write_figures({"comparison": comparison_page(columns, originals, many)}, folder)
    files.append(write_comparison(comparison, folder))
    console.print(comparison_table(comparison))
    if config.model.likelihood.support == "binary" and config.data.binarization == "none":
        say(console, "Grey or colour values under a Bernoulli: -ELBO bounds no likelihood.")
    say(console, f"{folder}: {', '.join(file.name for file in files)}")
    return comparison, files


def _originals(validation: Dataset) -> Bytes:
    """What is reconstructed, ``(R, K, H, W, C)``: about a dozen small images, or few large ones."""
    across = max(1, min(3, 256 // validation.images.shape[2], len(validation)))
    rows = max(1, min(12 // across, len(validation) // across, 4))
    shown = showcase(validation, rows * across)
    return np.asarray(validation.images[shown]).reshape(rows, across, *validation.images.shape[1:])


def _column(model: TorchModel, numbers: RunNumbers, originals: Bytes, many: Dataset, *, plain: bool) -> Column:
    flat = originals.reshape(-1, *originals.shape[2:])
    latents = model.prior.draw(len(flat), seed=SEED)
    return Column(
        name=numbers.run,
        objective=numbers.objective,
        reconstructions=decode_latents(model, encode_images(model, flat).mean).reshape(originals.shape),
        samples=decode_latents(model, latents).reshape(originals.shape),
        plane=plane_of(model, many.images, noisy=not plain),
        numbers=rows_of(numbers),
        has_prior=not plain,
    )
