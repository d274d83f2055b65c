"""Started by torchrun: ``python -m tests.support.together FOLDER RANK:STEP`` trains, and the process of that rank gets
SIGTERM after that step, and no other does."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.support.digits import digits_config
from training.config import RunConfig
from training.distributed import World
from training.loop import Loop
from training.train import train


def shared_config(**changes: object) -> RunConfig:
    """Batches that two processes can share: an odd number of images is in the last of validation's."""
    optimization: dict[str, object] = {"batch_size": 124}
    return digits_config(optimization=optimization | changes)


def thread_names() -> list[str]:
    """Of all threads of this process, those that Python knows nothing of too; Linux tells them."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


def main(folder: str, death: str) -> None:
    """Train until then."""
    rank, step = map(int, death.split(":"))
    world = World.of(os.environ)
    original = Loop._step

    def told(self: Loop, *arguments: Any) -> None:
        original(self, *arguments)
        if (world.rank, self.trainee.progress.step) == (rank, step):
            os.kill(os.getpid(), signal.SIGTERM)

    Loop._step = told  # type: ignore[method-assign, assignment]  # in a process of its own
    console = Console(quiet=not world.leads)
    complete = train(shared_config(), Path(folder), data_dir=None, resume=False, console=console, world=world)
    left = [name for name in thread_names() if "gloo" in name]
    # In one piece: the other process writes into the same pipe.
    os.write(1, f"rank {world.rank}: {'complete' if complete else 'stopped'}, threads left: {left}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
