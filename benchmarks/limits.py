"""What the graphs alone give: ONNX Runtime in a process, on arrays that are ready, with all cores. No HTTP.

Two ways to use the cores are tried at each batch size, and the best of all counts: threads within an operator, and a
thread with a session of its own for each core. Run as a script it prints images a second as JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.contenders.graphs import Floats, Graphs, Operation
from benchmarks.environments import ROOT

BATCHES = (1, 8, 16, 32, 64, 128, 256)


def images_a_second(bundle: Path, *, cores: int, seconds: float) -> dict[str, float]:
    """The best of all batch sizes and ways, by operation, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.limits", str(bundle), "--cores", str(cores), "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(bundle: Path, cores: int, seconds: float) -> dict[str, float]:
    """As above, in this process; ``seconds`` for each batch size and way."""
    within = Graphs(bundle, threads=cores)
    beside = [Graphs(bundle, threads=1) for _ in range(cores)]
    best: dict[str, float] = {}
    operations: tuple[Operation, ...] = ("encode", "decode")
    for operation in operations:
        for batch in BATCHES:
            inputs = np.random.default_rng(0).random((batch, *_shape(within, operation)), np.float32)
            for graphs in ([within], beside):
                rate = _rate(graphs, operation, inputs, seconds)
                best[operation] = max(best.get(operation, 0), rate)
    return best


def _shape(graphs: Graphs, operation: Operation) -> tuple[int, ...]:
    return (graphs.channels, graphs.height, graphs.width) if operation == "encode" else (graphs.latent_dim,)


def _rate(graphs: list[Graphs], operation: Operation, inputs: Floats, seconds: float) -> float:
    def work(own: Graphs) -> int:
        own.run(operation, inputs)
        done, deadline = 0, time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            own.run(operation, inputs)
            done += len(inputs)
        return done

    with ThreadPoolExecutor(len(graphs)) as pool:
        return sum(pool.map(work, graphs)) / seconds


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    print(json.dumps(measure(options.bundle, options.cores, options.seconds)))


if __name__ == "__main__":
    main()
