"""Measure a trained model on its test split, and write metrics.json with the protocol."""

from pathlib import Path
from typing import NamedTuple, TypeGuard

import torch
from rich.console import Console

from model.bundle.measurements import Annealing, InferenceGaps, Metrics
from model.vae import VAE
from training.ais import AnnealingSettings
from training.annealed import measure_annealing
from training.config import RunConfig, check
from training.data.dataset import Dataset
from training.device import choose_device, prepare
from training.errors import ConfigError, DataError
from training.gaps import measure_gaps
from training.images import held_out_images
from training.measure import measure
from training.metrics_file import PARTS, keeps, merged, stored, write
from training.observers import EvaluationProgress
from training.reconstruction import Reconstruction, measure_reconstruction, reconstruction_table
from training.run import RunFolder
from training.subset import Subset, bound_subset, draw_subset, drawn, require_likelihood
from training.summary import remarks, tables
from training.trained import load_best_to_measure
from training.words import say

SUBSET = 100


class Wishes(NamedTuple):
    """What is to be measured beside what always is, on how many test images, and how. Of what is None, nothing."""

    annealing: AnnealingSettings | None = None
    gaps: int | None = None
    """Steps of optimizing each image's posterior."""
    subset: int = SUBSET

    @property
    def any(self) -> bool:
        """Whether there is something."""
        return self.annealing is not None or self.gaps is not None


NOTHING_MORE = Wishes()


def evaluate_run(
    run: RunFolder,
    *,
    data_dir: Path | None,
    console: Console,
    importance_samples: int | None = None,
    images: int | None = None,
    wishes: Wishes = NOTHING_MORE,
) -> Metrics | Reconstruction:
    """Evaluate the best weights of a run on the test split, print tables, write metrics.json.

    Each part of a metrics.json of these weights stays where it says more than what is measured now
    (`training.metrics_file`). What every evaluation measures is not measured again for the sake of annealing or gaps,
    where metrics.json has as much of it as the configuration asks for, and neither number is given. Of a plain
    autoencoder there is nothing to measure but its reconstructions.

    Args:
        importance_samples: k, instead of the configuration's.
        images: so many test images, drawn by the seed, instead of the configuration's number.
        wishes: what else to measure.

    Returns:
        What was measured, with what else metrics.json has of these weights.

    Raises:
        ConfigError, DataError, CheckpointError, NonFiniteMetric: as their docstrings say.
    """
    config = with_overrides(run.config(), importance_samples=importance_samples, images=images)
    plain = config.objective.kind == "autoencoder"
    if plain and importance_samples is not None:
        raise ConfigError(f"{run.folder}: an autoencoder has no bound that takes importance samples")
    for wish, what in ((wishes.annealing, "annealed importance sampling"), (wishes.gaps, "inference gaps")):
        if wish is not None:
            require_likelihood(config, what)
    device = choose_device(config.device)
    prepare(device, config.threads)
    model, step = load_best_to_measure(run, config, device)
    test = held_out_images(run, data_dir=data_dir, console=console)
    if len(test) < 2:
        raise DataError(f"{test.name}: one test image says nothing of others: two or more are needed to measure")
    wanted = config.evaluation.images
    part = test if wanted is None else drawn(test, wanted, config.seed)
    before = stored(run, step)
    measured: Metrics | Reconstruction
    if wishes.any and importance_samples is None and images is None and _enough(before, part, config):
        measured = before
        say(console, f"{run.metrics_file} has the rest of these weights: it is not measured again.")
    else:
        measured = _measured(model, part, config, device, step, console)
    if isinstance(measured, Metrics) and wishes.any:
        subset = draw_subset(test, config, device, wishes.subset)
        more = _more(model, subset, config, wishes, measured.protocol.importance_samples or 1, step, console)
        measured = measured.model_copy(update=more)
    written = merged(before, measured)
    if written != before:
        write(run, written)
    if isinstance(measured, Metrics) and isinstance(written, Metrics):
        absent = {name: getattr(written, name) for name in PARTS if getattr(measured, name) is None}
        measured = measured.model_copy(update=absent)
    for table in [reconstruction_table(measured)] if isinstance(measured, Reconstruction) else tables(measured):
        console.print(table)
    for line in [*keeps(run, before, measured), *remarks(measured)]:
        say(console, line)
    return measured


def _measured(
    model: VAE, test: Dataset, config: RunConfig, device: torch.device, step: int, console: Console
) -> Metrics | Reconstruction:
    plain = config.objective.kind == "autoencoder"
    what = "reconstruction error" if plain else f"L_{config.evaluation.importance_samples}"
    with EvaluationProgress(f"{what} of {test.name}", len(test), console) as progress:
        if plain:
            return measure_reconstruction(model, test, config, device, step=step, advance=progress)
        return measure(model, test, config, device, step=step, advance=progress)


def _more(
    model: VAE, subset: Subset, config: RunConfig, wishes: Wishes, k: int, step: int, console: Console
) -> dict[str, Annealing | InferenceGaps]:
    """The parts that are wished for, by their names in `Metrics`."""
    size, name = len(subset.dataset), subset.dataset.name
    more: dict[str, Annealing | InferenceGaps] = {}
    with EvaluationProgress(f"L_{k} of {name}", size, console) as progress:
        bound = bound_subset(model, subset, config, k, progress)
    annealed = None
    if wishes.annealing is not None:
        with EvaluationProgress(f"annealing of {name}, and of simulated images", 2 * size, console) as progress:
            found = measure_annealing(model, subset, config, wishes.annealing, bound, k=k, step=step, advance=progress)
        more["annealing"], annealed = found.metrics, found.log_likelihood
    if wishes.gaps is not None:
        with EvaluationProgress(f"gaps of {name}", size, console) as progress:
            more["gaps"] = measure_gaps(
                model, subset, config, bound, annealed, k=k, step=step, steps=wishes.gaps, advance=progress
            )
    return more


def _enough(before: Metrics | Reconstruction | None, test: Dataset, config: RunConfig) -> TypeGuard[Metrics]:
    """Whether metrics.json has as many images and samples of these weights as the configuration asks for."""
    if not isinstance(before, Metrics):
        return False
    samples = before.protocol.importance_samples or 0
    return before.protocol.images >= len(test) and samples >= config.evaluation.importance_samples


def with_overrides(config: RunConfig, **wishes: int | None) -> RunConfig:
    """With these fields of ``evaluation`` instead of the configuration's; None leaves one as it is.

    Raises:
        ConfigError: a number is out of range.
    """
    given = {name: value for name, value in wishes.items() if value is not None}
    return check(config.model_dump() | {"evaluation": config.evaluation.model_dump() | given}, "evaluation")
