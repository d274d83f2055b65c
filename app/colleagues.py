"""What server processes that share a port know of each other: what each has counted, in files in a folder of theirs.

A scrape reaches one of them, and must tell of all. Each writes its numbers once a second, when it is scraped, and when
it ends, and reads those of the others when it is asked. What a process had told that died stays, so that counters do
not go back.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from app.tallies import add_up

INTERVAL = 1.0  # seconds

Numbers = Mapping[str, Any]
"""What is told: ``process``, ``cpu_seconds``, ``tallies``, ``gauges`` (`metrics.Snapshot`)."""

logger = logging.getLogger(__name__)


class Colleagues:
    """Those with files in ``folder``, but for this process, which has the number ``index`` among them."""

    def __init__(self, folder: Path, index: int) -> None:
        self._folder, self._own = folder, folder / f"{index}.json"
        self._complained = False
        if (last := _read(self._own)) is not None:  # of the process whose place this one takes
            gone = folder / f"{index}-gone.json"
            _write(gone, _together(_read(gone), last))
            self._own.unlink()

    async def keep_telling(self, numbers: Callable[[], Numbers]) -> None:
        """Write the numbers of now once a second, until cancelled, and then a last time."""
        try:
            while True:
                self.tell(numbers())
                await asyncio.sleep(INTERVAL)
        finally:
            self.tell(numbers())

    def tell(self, numbers: Numbers) -> None:
        """Write these numbers. What keeps that from succeeding is told once, in the log."""
        try:
            _write(self._own, numbers)
        except FileNotFoundError:
            pass  # the folder goes with the last of the parent and the workers
        except OSError as error:
            if not self._complained:
                logger.warning("metrics of this worker cannot be told to the others: %s", error.strerror)
                self._complained = True

    def told(self) -> list[Numbers]:
        """The numbers of all others. Of those that are no more, what they counted."""
        found = [_read(path) for path in sorted(self._folder.glob("*.json")) if path != self._own]
        return [numbers for numbers in found if numbers is not None]


def _together(gone: Numbers | None, last: Numbers) -> Numbers:
    """What processes counted that are no more."""
    parts = [last] if gone is None else [gone, last]
    names = {name for part in parts for name in part["tallies"]}
    tallies = {name: list(add_up(part["tallies"].get(name, []) for part in parts).items()) for name in names}
    return {
        "process": None,
        "cpu_seconds": sum(part["cpu_seconds"] for part in parts),
        "tallies": tallies,
        "gauges": {},
    }


def _read(path: Path) -> Numbers | None:
    try:
        found: Numbers = orjson.loads(path.read_bytes())
    except FileNotFoundError:  # not there yet, or put together with others in this moment
        return None
    return found


def _write(path: Path, numbers: Numbers) -> None:
    """So that whoever reads has them whole."""
    new = path.with_suffix(".new")
    new.write_bytes(orjson.dumps(numbers))
    new.replace(path)
