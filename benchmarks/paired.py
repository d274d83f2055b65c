"""By how much runs differ on the same test images: `python -m benchmarks.paired RUN RUN ... --data-dir DATA`.

Each image is measured under each run as `vae evaluate` does it, with the seed and the evaluation settings of the
first, so that all see the same images and the same draw of dynamic pixels. An interval of a run by itself is mostly the
images' being hard or easy, which runs share; that of differences, image by image, is not. Neither covers another
training run.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from torch import Tensor

from benchmarks.report import as_table
from model.bundle.measurements import Estimate
from training.comparison import names_of, other_pixels
from training.config import RunConfig
from training.data.dataset import Dataset
from training.device import choose_device, prepare
from training.errors import ConfigError, DataError, TrainingError
from training.estimators import mean_over_images
from training.evaluate import with_overrides
from training.images import held_out_images
from training.measure import measure_images
from training.observers import EvaluationProgress
from training.run import RunFolder
from training.subset import drawn, require_likelihood
from training.trained import load_best_to_measure


class Costs(NamedTuple):
    """Of each of N images under a run, ``(N,)`` nats."""

    bound: Tensor
    """-L_K."""
    negative_elbo: Tensor


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paired", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "runs", type=Path, nargs="+", help="run folders, as in runs/mnist; the first is what is compared with"
    )
    parser.add_argument("--data-dir", type=Path, help="local copies of the data (as vae evaluate)")
    parser.add_argument("--images", type=int, help="test images, drawn by the seed (as the first run's configuration)")
    parser.add_argument("--samples", type=int, help="K of the bound L_K (as the first run's configuration)")
    given = parser.parse_args(arguments)
    try:
        print(
            compared(
                [RunFolder(folder) for folder in given.runs],
                data_dir=given.data_dir,
                console=Console(stderr=True),
                images=given.images,
                importance_samples=given.samples,
            )
        )
    except TrainingError as error:
        sys.exit(f"benchmarks.paired: {error}")


def compared(
    runs: Sequence[RunFolder],
    *,
    data_dir: Path | None,
    console: Console,
    images: int | None = None,
    importance_samples: int | None = None,
) -> str:
    """The protocol, and the table.

    Args:
        images: so many test images, drawn by the seed, instead of the number in the first run's configuration.
        importance_samples: K, likewise.

    Raises:
        ConfigError: there are fewer than two runs, one is named twice, is of other pixels or has no likelihood, or a
            number is out of range.
        DataError: the test images of two runs differ, or are fewer than two.
        CheckpointError, NonFiniteMetric: as their docstrings say.
    """
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < 2 or len(set(folders)) < len(folders):
        raise ConfigError("name two runs or more, each once")
    first = with_overrides(runs[0].config(), importance_samples=importance_samples, images=images)
    device = choose_device(first.device)
    prepare(device, first.threads)
    configs = [_as_first(run, runs[0], first) for run in runs]
    test = _same_images(runs, data_dir, console)
    part = drawn(test, first.evaluation.images or len(test), first.seed)
    k = first.evaluation.importance_samples
    costs = []
    for name, run, config in zip(names_of(runs), runs, configs, strict=True):
        model, _ = load_best_to_measure(run, config, device)
        with EvaluationProgress(f"{name}: L_{k} of {part.name}", len(part), console) as progress:
            estimates = measure_images(model, part, config, device, advance=progress).estimates
        costs.append(Costs(-estimates.log_likelihood, estimates.rate + estimates.distortion))
    protocol = (
        f"{len(part):,} images of the {part.split} split of {part.name}, binarization {first.data.binarization}, "
        f"{k:,} importance samples an image, seed {first.seed}; nats per image, 95% intervals over images."
    )
    return f"{protocol}\n\n{table(names_of(runs), costs, k)}"


def _as_first(run: RunFolder, other: RunFolder, first: RunConfig) -> RunConfig:
    """The configuration of a run, to be measured as the first is."""
    config = run.config()
    require_likelihood(config, "bound of it")
    difference = other_pixels(first, config)
    if difference is not None:
        raise ConfigError(f"{other.folder} and {run.folder} cannot be compared: {difference}")
    return config.model_copy(update={"seed": first.seed, "evaluation": first.evaluation})


def _same_images(runs: Sequence[RunFolder], data_dir: Path | None, console: Console) -> Dataset:
    """The test images that all runs have."""
    first, *others = [held_out_images(run, data_dir=data_dir, console=console) for run in runs]
    for run, other in zip(runs[1:], others, strict=True):
        if other.sha256 != first.sha256:
            raise DataError(f"{runs[0].folder} and {run.folder} cannot be compared: their test images differ")
    if len(first) < 2:
        raise DataError(f"{first.name}: one test image says nothing of others: two or more are needed to compare")
    return first


def table(names: Sequence[str], costs: Sequence[Costs], k: int) -> str:
    """Markdown: a line a run. Differences are how much less it costs, by pairs of the same image."""
    lines = []
    for place, (name, mine) in enumerate(zip(names, costs, strict=True)):
        line = [name]
        for cost in (_bound, _negative_elbo):
            own = mean_over_images(cost(mine))
            line += [f"{own.value:.2f}", f"{own.low:.2f} to {own.high:.2f}"]
            for than in (costs[0], costs[place - 1]):
                line.append(_in_words(saved(cost(than), cost(mine))) if place else "")
        lines.append(line)
    head = ["run"]
    for what in (f"-L_{k}", "-ELBO"):
        head += [what, "95% interval", f"less than {names[0]}", "less than the line above"]
    return as_table(head, lines)


def saved(than: Tensor, cost: Tensor) -> Estimate:
    """How much less images cost ``(N,)`` than they did ``(N,)``, with the paired 95% interval (Student's t)."""
    return mean_over_images(than.double() - cost.double())


def _bound(costs: Costs) -> Tensor:
    return costs.bound


def _negative_elbo(costs: Costs) -> Tensor:
    return costs.negative_elbo


def _in_words(found: Estimate) -> str:
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


if __name__ == "__main__":
    main()
