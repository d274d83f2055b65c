"""How many latents a CPU should decode at a time: `python -m benchmarks.pieces RUN`.

Importance sampling of images that are drawn, with the weights of a run, decoded in pieces whose features take so many
bytes. All budgets take turns; an evaluation takes `training.memory.CACHE_BUDGET` for each of its threads, this one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator

from benchmarks.report import as_table, ratio_cell
from model.vae import VAE
from training.errors import TrainingError
from training.estimators import estimate_images
from training.memory import CACHE_BUDGET, images_at_a_time
from training.run import RunFolder
from training.trained import load_best

BUDGETS = tuple(sorted({CACHE_BUDGET} | {1 << power for power in (20, 22, 24, 26, 28, 30)}))
ROUNDS = 5
CPU = torch.device("cpu")


def latents_per_second(model: VAE, at_a_time: int, *, latents: int, chunk: int) -> float:
    """Of an importance sampling with so many latents in all, of which images have ``chunk`` each; seconds are those of
    the processor, which others disturb less."""
    generator = Generator().manual_seed(0)
    images = torch.rand(max(1, latents // chunk), *model.shape, generator=generator).round()
    began = time.process_time()
    estimate_images(model, images, chunk, generator, chunk=chunk, at_a_time=at_a_time)
    return chunk * len(images) / (time.process_time() - began)


def table(pieces: dict[int, int], speeds: dict[int, list[float]]) -> str:
    """Markdown: a line a budget; ratios are of the same round, to the budget that is taken."""
    head = ["budget, MiB", "latents at a time", "latents/s", f"ratio to {CACHE_BUDGET / (1 << 20):g} MiB (least, most)"]
    lines = []
    for budget, found in speeds.items():
        ratios = [mine / taken for mine, taken in zip(found, speeds[CACHE_BUDGET], strict=True)]
        size, speed = f"{budget / (1 << 20):g}", f"{statistics.median(found):,.0f}"
        lines.append([size, f"{pieces[budget]:,}", speed, ratio_cell(ratios)])
    return as_table(head, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pieces", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path, help="a run folder, as in runs/mnist")
    parser.add_argument("--latents", type=int, default=10_000, help="of each measurement (10000)")
    parser.add_argument("--chunk", type=int, default=100, help="of each image (100, as evaluation.sample_chunk)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"({ROUNDS})")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        model = load_best(RunFolder(given.run))[0].vae
    except TrainingError as error:
        sys.exit(f"benchmarks.pieces: {error}")
    pieces = {budget: images_at_a_time(model, CPU, workers=1, budget=budget) for budget in BUDGETS}
    speeds: dict[int, list[float]] = {budget: [] for budget in BUDGETS}
    for turn in range(given.rounds + 1):  # the first is to warm up
        for budget, at_a_time in pieces.items():
            speed = latents_per_second(model, at_a_time, latents=given.latents, chunk=given.chunk)
            if turn:
                speeds[budget].append(speed)
    print(table(pieces, speeds))


if __name__ == "__main__":
    main()
