"""What server processes that share a port know of each other: what each has counted, in files in a folder of theirs.

A scrape reaches one of them, and must tell of all. Each writes its numbers once a second, and reads those of the others
when it is asked. What a process has counted that died stays, so that no counter ever goes back.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

INTERVAL = 1.0  # seconds

Numbers = Mapping[str, Any]
"""What is told: ``process``, ``tallies``, ``gauges`` (`metrics.Snapshot`)."""


class Colleagues:
    """Those with files in ``folder``, but for this process, which has the number ``index`` among them."""

    def __init__(self, folder: Path, index: int) -> None:
        self._folder, self._own = folder, folder / f"{index}.json"
        if self._own.exists():  # of the process whose place this one takes
            self._own.rename(folder / f"{index}-before-{os.getpid()}.json")

    async def keep_telling(self, numbers: Callable[[], Numbers]) -> None:
        """Write the numbers of now once a second, until cancelled."""
        while True:
            self.tell(numbers())
            await asyncio.sleep(INTERVAL)

    def tell(self, numbers: Numbers) -> None:
        """Write these numbers, so that whoever reads has them whole."""
        new = self._own.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):  # the folder goes with the last of the parent and the workers
            new.write_bytes(orjson.dumps(numbers))
            new.replace(self._own)

    def told(self) -> list[Numbers]:
        """The numbers of all others. Of those that are no more, what they counted."""
        found: list[Numbers] = []
        for path in sorted(self._folder.glob("*.json")):
            if path != self._own:
                try:
                    numbers = orjson.loads(path.read_bytes())
                except FileNotFoundError:  # renamed in this moment, by who takes its process's place
                    continue
                found.append(numbers if "-" not in path.stem else numbers | {"process": None, "gauges": {}})
        return found
