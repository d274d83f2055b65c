"""Runs that end in the middle: ``python -m tests.support.dying PRECISION:FOLDER=DEATH...``

A death is by SIGKILL at an exact place: ``after-step:N``, or ``half-written:FILE:N``, ``before-rename:FILE:N`` or
``after-rename:FILE:N`` for the N-th time that a checkpoint FILE is written. ``told`` is no death: a run that would go
on for hours gets SIGTERM from outside, whatever it is doing then.

Each run is a process of its own, forked from this one, which has imported PyTorch but computed nothing. Prints the exit
code of each run, one a line; that of a killed one is the negative signal.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

import torch._dynamo  # noqa: F401 (what a run would import later is imported once, for all of them)

from tests.support.digits import digits_config, run_digits
from training.loop import Loop

LONG = 100_000
"""Epochs that no test waits for."""
COMPLETE = 3


def die() -> None:
    """At once: no handler, no finally, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_step(step: int) -> None:
    """Arm: die when the loop has done a step and not yet looked at what to do next."""
    original = Loop._step

    def dying(self: Loop, *arguments: Any) -> None:
        original(self, *arguments)
        if self.trainee.progress.step == step:
            die()

    Loop._step = dying  # type: ignore[method-assign, assignment]  # a process that is about to end


def die_renaming(file: str, time: int, *, before: bool) -> None:
    """Arm: die when the new file is complete and still has its temporary name, or just got its own."""
    original, seen = Path.replace, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal seen
        seen += target.name == file
        due = target.name == file and seen == time
        if due and before:
            die()
        result = original(self, target)
        if due:
            die()
        return result

    Path.replace = dying  # type: ignore[method-assign, assignment]  # a process that is about to end


def die_writing(file: str, time: int) -> None:
    """Arm: die when half of the new file is written."""
    original, seen = Path.open, 0

    def dying(self: Path, *arguments: Any, **options: Any) -> IO[Any]:
        nonlocal seen
        opened: IO[Any] = original(self, *arguments, **options)
        if file in self.name and self.name.endswith(".tmp"):
            seen += 1
            if seen == time:
                opened.write(b"x" * 10_000)
                opened.flush()
                die()
        return opened

    Path.open = dying  # type: ignore[method-assign, assignment]  # a process that is about to end


def arm(death: str) -> None:
    """Parse a death and lie in wait."""
    kind, *where = death.split(":")
    if kind == "after-step":
        die_after_step(int(where[0]))
    elif kind == "half-written":
        die_writing(where[0], int(where[1]))
    else:
        die_renaming(where[0], int(where[1]), before=kind == "before-rename")


def main(*arguments: str) -> None:
    """One run after the other."""
    for argument in arguments:
        precision, folder, death = re.split("[:=]", argument, maxsplit=2)
        changes: dict[str, object] = {"precision": precision}
        if death == "told":
            changes["epochs"] = LONG
        child = os.fork()
        if child == 0:
            if death != "told":
                arm(death)
            _, complete, _ = run_digits(Path(folder), digits_config(optimization=changes))
            os._exit(COMPLETE if complete else 0)
        if death == "told":
            tell(child, Path(folder) / "metrics.jsonl")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def tell(child: int, file: Path) -> None:
    """SIGTERM once it has written its first line; SIGKILL should that not happen in a minute."""
    deadline = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
