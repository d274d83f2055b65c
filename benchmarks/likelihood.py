"""What pythae makes, by the recipe of its own reproduction, of a row of docs/results.md that is ours.

    python -m benchmarks.likelihood --data-dir data

It runs in an environment of its own, on one thread of the CPU, and reads ``mnist-static/binarized_mnist.npz``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environments import ROOT, Unavailable, environment, of_requirements
from benchmarks.training_images import STATIC_MNIST


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it; what it says goes where this process writes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.likelihood", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="(data)")
    parser.add_argument("--epochs", type=int, default=500, help="(500, as in pythae's reproduction)")
    parser.add_argument("--batch", type=int, default=100, help="(100)")
    given = parser.parse_args(arguments)
    data = given.data_dir / STATIC_MNIST
    if not data.exists():
        sys.exit(f"benchmarks.likelihood: {data}: not found; name its folder with --data-dir")
    try:
        python = environment(of_requirements("pythae"))
    except Unavailable as error:
        sys.exit(f"benchmarks.likelihood: {error}")
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "benchmarks.contenders.likelihood_pythae", data.resolve(), folder]
        done = subprocess.run(
            [*map(str, command), str(given.epochs), str(given.batch)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=False,
        )
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
