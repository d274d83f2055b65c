"""What was measured, in a form that is written as JSON and read by the report."""

import json
import os
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.processes import Memory
from benchmarks.wrk import Summary


@dataclass(slots=True)
class Cell:
    """A contender in a row: a summary a round, or why there is none."""

    rounds: list[Summary] = field(default_factory=list)
    failure: str = ""

    @property
    def valid(self) -> bool:
        """Every round was measured, and none failed."""
        return bool(self.rounds) and not self.failure

    @property
    def rate(self) -> float:
        """Requests a second, the median of the rounds."""
        return statistics.median(summary.rate for summary in self.rounds)

    @property
    def p50_ms(self) -> float:
        """Milliseconds, the median of the rounds."""
        return statistics.median(summary.p50_ms for summary in self.rounds)

    @property
    def p99_ms(self) -> float:
        """Milliseconds, the median of the rounds."""
        return statistics.median(summary.p99_ms for summary in self.rounds)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median of the rounds' rates: how far they may be believed."""
        rates = [summary.rate for summary in self.rounds]
        return (max(rates) - min(rates)) / self.rate


@dataclass(slots=True)
class Standing:
    """A contender as a whole. ``cold_starts`` are seconds from exec to the first right answer."""

    role: str
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    cold_starts: list[float] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    not_run: str = ""


@dataclass(slots=True)
class Growth:
    """A line of a table of growth: what was varied, how far, and what came of it."""

    table: str
    contender: str
    line: str
    value: float
    """Microseconds an image, or requests a second."""
    note: str = ""
    failure: str = ""


@dataclass(slots=True)
class Results:
    """Everything of a run. Cells are by table, row and contender; limits, images a second, by table and operation."""

    facts: dict[str, str] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, Cell]]] = field(default_factory=dict)
    limits: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    growth: list[Growth] = field(default_factory=list)

    def cell(self, table: str, row: str, contender: str) -> Cell:
        """The cell, made where it is missing."""
        return self.tables.setdefault(table, {}).setdefault(row, {}).setdefault(contender, Cell())

    def fail(self, table: str, row: str, contender: str, reason: str) -> None:
        """A row that failed once has failed: what other rounds gave is no longer shown."""
        cell = self.cell(table, row, contender)
        cell.failure = cell.failure or reason

    def limit(self, table: str, operation: str) -> float | None:
        """Images a second without HTTP, the median of the rounds."""
        found = self.limits.get(table, {}).get(operation, [])
        return statistics.median(found) if found else None

    def failures(self) -> list[tuple[str, str, str, str]]:
        """Table, row, contender and reason of every cell that failed."""
        return [
            (table, row, name, cell.failure)
            for table, rows in self.tables.items()
            for row, cells in rows.items()
            for name, cell in cells.items()
            if cell.failure
        ]

    def write(self, path: Path) -> None:
        """As JSON, put in place whole."""
        write_whole(path, json.dumps(asdict(self), indent=1) + "\n")


def read(path: Path) -> Results:
    """What ``write`` wrote."""
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Results(
        raw["facts"],
        {
            name: Standing(**{**standing, "memory": [Memory(**memory) for memory in standing["memory"]]})
            for name, standing in raw["standings"].items()
        },
        {
            table: {
                row: {
                    name: Cell([Summary(**summary) for summary in cell["rounds"]], cell["failure"])
                    for name, cell in cells.items()
                }
                for row, cells in rows.items()
            }
            for table, rows in raw["tables"].items()
        },
        raw["limits"],
        [Growth(**line) for line in raw["growth"]],
    )


def write_whole(path: Path, text: str) -> None:
    """Write beside the file and rename: a reader finds the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
