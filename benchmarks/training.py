"""How fast our training loop is beside pythae's trainer: `make bench-training`.

Both train the same layers with the same -ELBO on the same binary images, in batches of the same size, on so many CPU
threads; each in a process and an environment of its own, in turns, so that a noisy machine disturbs both. Each does it
the way its documentation tells a user, with its defaults: ours with checkpoints and an average of the weights, pythae
with its data loader and the copy that it keeps of its best model. Ours is there in bfloat16 and compiled too, which are
settings of a run. Neither validates meanwhile. An epoch to warm up, and to compile in, is not timed. The -ELBO that
each had at the end stands beside the speeds: who skipped work would be seen there. "layers alone" are the forward and
backward passes of the same layers in float32 and nothing else: no uncompiled loop in float32 can be faster.

    make bench-training ARGS="--networks mlp --batches 100 --rounds 3"
    make bench-training ARGS="--data-dir data"          statically binarized MNIST from data/mnist-static
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import machine
from benchmarks.contenders.training_job import Job, Network, Outcome, rate
from benchmarks.environments import ROOT, WORK, Unavailable, environment, of_requirements
from benchmarks.report import as_table, ratio_cell
from benchmarks.results import write_whole
from benchmarks.training_images import STATIC_MNIST, write_images

GOALS: dict[Network, float] = {"mlp": 3.0, "conv": 1.0}
BATCHES = (100, 500)
IMAGES: dict[Network, int] = {"mlp": 10_000, "conv": 2_000}
TIMEOUT = 1800.0

Train = Callable[[str, Job], Outcome]
"""A contender's job, done; raises Failed."""


class Failed(Exception):
    """A contender did not end as it should; the message is one line."""


@dataclass(frozen=True)
class Contender:
    """A trainer: its module in ``contenders/``, the precision of its networks, and whether its steps are compiled."""

    name: str
    module: str
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False


OURS, PEER, LIMIT = "ours", "pythae", "layers alone"
CONTENDERS = (
    Contender(OURS, "training_ours"),
    Contender("ours in bfloat16", "training_ours", "bfloat16"),
    Contender("ours compiled", "training_ours", compile=True),
    Contender("ours compiled in bfloat16", "training_ours", "bfloat16", compile=True),
    Contender(PEER, "training_pythae"),
    Contender(LIMIT, "training_layers"),
)
TRAINED = tuple(one.name for one in CONTENDERS if one.name != LIMIT)
COMPARED = tuple(one.name for one in CONTENDERS if one.name != PEER)


@dataclass
class Cell:
    """A contender in a row, a value a round: images a second by the clock; -ELBO."""

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    parameters: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    failure: str = ""


@dataclass
class Row:
    """A network and a batch size, and every contender in it."""

    network: Network
    batch: int
    images: int
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Plan:
    """What is run."""

    networks: tuple[Network, ...]
    batches: tuple[int, ...]
    images: dict[Network, int]
    epochs: int
    rounds: int
    threads: int
    data_dir: Path | None


def run(plan: Plan, train: Train, say: Callable[[str], None]) -> list[Row]:
    """All rows; in each round every contender once, in an order that turns from round to round.

    A contender that fails is told in its cell, and not run again in that row.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network in plan.networks:
            data = Path(folder) / f"{network}.npz"
            write_images(data, plan.images[network], plan.data_dir)
            for batch in plan.batches:
                row = Row(network, batch, plan.images[network], {one.name: Cell() for one in CONTENDERS})
                rows.append(row)
                for turn in range(plan.rounds):
                    for index in range(len(CONTENDERS)):
                        contender = CONTENDERS[(turn + index) % len(CONTENDERS)]
                        _take(plan, row, contender, data, train)
                    done = {name: f"{cell.rates[-1]:,.0f}" for name, cell in row.cells.items() if cell.rates}
                    say(f"{network}, batch {batch}, round {turn + 1} of {plan.rounds}: {done} images a second")
    return rows


def _take(plan: Plan, row: Row, contender: Contender, data: Path, train: Train) -> None:
    cell = row.cells[contender.name]
    if cell.failure:
        return
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            row.network,
            row.batch,
            row.images,
            plan.epochs,
            plan.threads,
            str(data),
            folder,
            contender.precision,
            contender.compile,
        )
        try:
            outcome = train(contender.module, job)
        except (Failed, Unavailable) as error:
            cell.failure = str(error)
            return
    cell.rates.append(rate(outcome, row.images))
    cell.losses += [] if outcome.loss is None else [outcome.loss]
    cell.parameters, cell.versions = outcome.parameters, outcome.versions


def train_in_its_environment(module: str, job: Job) -> Outcome:
    """Run a contender. Ours runs in the environment of this process; raises Failed and Unavailable."""
    python = environment(of_requirements("pythae")) if module == "training_pythae" else sys.executable
    done = subprocess.run(
        [python, "-m", f"benchmarks.contenders.{module}", job.text()],
        cwd=job.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(job.threads)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or ["failed"])[-1])
    return Outcome.parse(done.stdout)


def ratios(row: Row, name: str = OURS) -> list[float]:
    """Ours over the peer's, a value a round that both have."""
    ours, peer = row.cells[name], row.cells[PEER]
    return [mine / theirs for mine, theirs in zip(ours.rates, peer.rates, strict=False)]


def markdown(rows: Sequence[Row], facts: dict[str, str]) -> str:
    """The report."""
    text = "# Training speed\n\n" + "\n".join(f"- {name}: {value}" for name, value in facts.items()) + "\n\n"
    head = ["network", "parameters", "batch", *(one.name for one in CONTENDERS)]
    speeds, against, losses = [], [], []
    for row in rows:
        counts = {cell.parameters for cell in row.cells.values() if not cell.failure}
        name = [row.network, " or ".join(f"{count:,}" for count in sorted(counts)), str(row.batch)]
        speeds.append([*name, *(_rate(row.cells[one.name]) for one in CONTENDERS)])
        against.append([row.network, str(row.batch), *(ratio_cell(ratios(row, one)) for one in COMPARED), _goal(row)])
        losses.append([row.network, str(row.batch), *(_loss(row.cells[one]) for one in TRAINED)])
    text += "Images a second:\n\n" + as_table(head, speeds)
    text += f"\n\nSpeed over that of {PEER}, by the clock:\n\n"
    text += as_table(["network", "batch", *COMPARED, "goal"], against)
    text += (
        "\n\nMedians over rounds, of a ratio with its least and most. "
        f"{PEER} is as it comes: in float32, and not compiled.\n\n"
        "-ELBO of the last timed epoch, nats per image, the mean over its steps:\n\n"
    )
    text += as_table(["network", "batch", *TRAINED], losses) + "\n"
    failures = {f"- {name}: {cell.failure}" for row in rows for name, cell in row.cells.items() if cell.failure}
    return text + ("\nNot run, or failed:\n\n" + "\n".join(sorted(failures)) + "\n" if failures else "")


def same_networks(rows: Sequence[Row]) -> bool:
    """Whether all contenders of each row trained as many parameters."""
    return all(len({cell.parameters for cell in row.cells.values() if not cell.failure}) <= 1 for row in rows)


def _goal(row: Row) -> str:
    """The goal, and which of ours are there in the median."""
    goal = GOALS[row.network]
    if not row.cells[PEER].rates:
        return f"{goal:g}: not compared"
    medians = {one: statistics.median(ratios(row, one) or [0.0]) for one in COMPARED if one != LIMIT}
    there = [one for one, ratio in medians.items() if ratio >= goal]
    return f"{goal:g}: {'met by ' + ', '.join(there) if there else 'missed'}"


def _rate(cell: Cell) -> str:
    return f"{statistics.median(cell.rates):,.0f}" if cell.rates and not cell.failure else "—"


def _loss(cell: Cell) -> str:
    return f"{statistics.median(cell.losses):.2f}" if cell.losses and not cell.failure else "—"


def facts_of(plan: Plan, rows: Sequence[Row]) -> dict[str, str]:
    """For the head of the report."""
    cores = len(os.sched_getaffinity(0))
    facts = machine.facts(cores) | {
        "cores": f"{cores}, shared with whatever else runs",
        "threads": str(plan.threads),
        "images": "statically binarized MNIST" if plan.data_dir else "drawn, binary, 28x28",
        "rounds": f"{plan.rounds}, each of an epoch to warm up and {plan.epochs} timed",
    }
    for one in CONTENDERS:
        versions = [row.cells[one.name].versions for row in rows if row.cells[one.name].versions]
        if versions:
            facts[one.name] = ", ".join(f"{name} {value}" for name, value in versions[-1].items())
    return facts


def main(arguments: Sequence[str] | None = None, train: Train = train_in_its_environment) -> None:
    """The whole benchmark."""
    plan, output = parse(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    rows = run(plan, train, say)
    facts = facts_of(plan, rows)
    report: dict[str, Any] = {"facts": facts, "rows": [asdict(row) for row in rows]}
    write_whole(output.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    text = markdown(rows, facts)
    write_whole(output.with_suffix(".md"), text)
    print(text, end="")
    if not same_networks(rows):
        raise SystemExit("the contenders trained different networks: the speeds do not compare")


def parse(arguments: Sequence[str] | None) -> tuple[Plan, Path]:
    """The plan, and where the report goes, without its suffix."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=tuple(GOALS), default=tuple(GOALS))
    parser.add_argument("--batches", nargs="+", type=_positive, default=BATCHES)
    parser.add_argument("--images", type=_positive, help="an epoch's; default: 10,000 for mlp, 2,000 for conv")
    parser.add_argument("--epochs", type=_positive, default=2, help="timed ones, after one to warm up")
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--data-dir", type=Path, help=f"a folder with {STATIC_MNIST}; default: images are drawn")
    parser.add_argument("--output", type=Path, default=WORK / "results" / "training", help="of .md and .json")
    options = parser.parse_args(arguments)
    images = {network: options.images or IMAGES[network] for network in options.networks}
    for network, count in images.items():
        for batch in options.batches:
            if count % batch:
                # A last batch that is smaller is trained by one and left for another epoch by the other.
                parser.error(f"--images {count} of {network} is no multiple of --batches {batch}")
    plan = Plan(
        tuple(options.networks),
        tuple(options.batches),
        images,
        options.epochs,
        options.rounds,
        options.threads,
        options.data_dir,
    )
    return plan, options.output


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


if __name__ == "__main__":
    main()
