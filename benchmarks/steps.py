"""What a training step of each run costs, beside the first: `python -m benchmarks.steps RUN RUN ...`.

Of the models, objectives, batches and optimizers that the runs say, compiled where they are, with their first weights,
on binary images that are drawn; one thread of a CPU, in float32. All runs take turns, and seconds are those of the
processor, which others disturb less.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor

from benchmarks.report import as_table, ratio_cell
from training.checkpoint import Trainee
from training.config import RunConfig
from training.errors import TrainingError
from training.loop import build_trainee
from training.objectives.choice import minimized
from training.run import RunFolder
from training.step import Step

ROUNDS, STEPS = 7, 20
CPU = torch.device("cpu")


@dataclass
class Cost:
    """A run, and the milliseconds of a step in each round."""

    name: str
    config: RunConfig
    trainee: Trainee
    milliseconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._steps = Step(self.trainee, self.config.optimization, "none", autocast=False)

    @property
    def parameters(self) -> int:
        """That are learned."""
        return sum(parameter.numel() for parameter in self.trainee.model.parameters())

    def step(self, images: Tensor) -> None:
        """As the training loop takes it; halfway through the run, where schedules have done what they do first."""
        half = self.config.optimization.epochs // 2
        objective = minimized(
            self.config.objective,
            half,
            total_steps=self.config.optimization.epochs,
            steps_per_epoch=1,
            images=len(images),
        )
        self._steps.take(images, objective, self.config.optimization.learning_rate)


def measure(costs: Sequence[Cost], *, rounds: int, steps: int) -> None:
    """All of them in turns; a first round is to warm up, with the two steps that are compiled at least."""
    generator = Generator().manual_seed(0)
    for turn in range(rounds + 1):
        for cost in costs:
            shape = cost.config.optimization.batch_size, *cost.trainee.model.shape
            images = torch.rand(shape, generator=generator).round()
            began = time.process_time()
            for _ in range(steps if turn else max(steps, 2)):
                cost.step(images)
            if turn:
                cost.milliseconds.append(1000 * (time.process_time() - began) / steps)


def table(costs: Sequence[Cost]) -> str:
    """Markdown: a line a run; ratios are of the same round, to the first run."""
    lines = []
    for cost in costs:
        ratios = [mine / first for mine, first in zip(cost.milliseconds, costs[0].milliseconds, strict=True)]
        milliseconds = f"{statistics.median(cost.milliseconds):.1f}"
        lines.append([cost.name, f"{cost.parameters:,}", milliseconds, ratio_cell(ratios)])
    return as_table(["run", "parameters", "ms a step", "ratio (least, most)"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, as in runs/mnist")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"({ROUNDS})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each run in each round ({STEPS})")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    costs = []
    try:
        for folder in given.runs:
            config = RunFolder(folder).config()
            costs.append(Cost(folder.name, config, build_trainee(config, CPU)))
        measure(costs, rounds=given.rounds, steps=given.steps)
    except TrainingError as error:
        sys.exit(f"benchmarks.steps: {error}")
    print(table(costs))


if __name__ == "__main__":
    main()
