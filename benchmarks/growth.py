"""How ours grows: with the images in a request, with connections, and with models in one server."""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.dialects import Request
from benchmarks.processes import StartFailed
from benchmarks.results import Growth
from benchmarks.roster import Contender, Place
from benchmarks.rows import Operation, Row, Workload, WrongAnswer
from benchmarks.visits import Visited, visit
from benchmarks.wrk import LoadFailed, load

GRAPHS: tuple[Operation, ...] = ("encode", "decode")
ITEMS = (1, 4, 16, 64, 256)
CONNECTIONS = (64, 128, 256, 512, 1000)
MODELS = 3
SHARED_CONNECTIONS = 48
# Its defaults refuse, as they should, what more than 128 clients ask at a time.
ROOM = ("--max-waiting", "2048", "--max-receiving", "2048")
STEPS = 2 * len(ITEMS) + len(CONNECTIONS) + 1 + MODELS
FAILURES = (WrongAnswer, LoadFailed, StartFailed)
Tell = Callable[[str], None]


def estimate(row_seconds: float) -> float:
    """Seconds that ``measure`` takes where a row takes so many."""
    return 3 * 6.0 + STEPS * row_seconds


def measure(
    contender: Contender, python: Path, workload: Workload, seconds: float, cores: int, tell: Tell
) -> list[Growth]:
    """All tables, of one configuration of ours."""
    name = contender.name
    lines: list[Growth] = []
    try:
        with visit(contender, python, workload, cores=cores) as visited:
            for operation in GRAPHS:
                rows = [Row(operation, items, "binary", 16) for items in ITEMS]
                lines += _lines(visited, f"{operation}: microseconds an image", rows, seconds, tell)
        roomy = with_options(contender, ROOM)
        with visit(roomy, python, workload, cores=cores) as visited:
            rows = [Row("encode", 1, "binary", connections) for connections in CONNECTIONS]
            lines += _lines(visited, "encode of one: requests a second by connections", rows, seconds, tell)
        lines += _models(contender, python, workload, seconds, cores, tell)
    except FAILURES as problem:
        lines.append(Growth("not measured to the end", name, "", 0, failure=str(problem)))
    return lines


def with_options(contender: Contender, options: Sequence[str]) -> Contender:
    """The same with more options at the end of its command."""

    def command(place: Place) -> list[str]:
        return [*contender.command(place), *options]

    return replace(contender, command=command)


def _lines(visited: Visited, table: str, rows: list[Row], seconds: float, tell: Tell) -> list[Growth]:
    lines = []
    by_items = "image" in table
    name = visited.contender.name
    for row in rows:
        tell(f"growth, {name}: {row.name}")
        label = f"{row.items} a request, 16 connections" if by_items else f"{row.connections} connections"
        try:
            summary = visited.measure(row, seconds)
        except FAILURES as problem:
            lines.append(Growth(table, name, label, 0, failure=str(problem)))
        else:
            value = 1e6 / (summary.rate * row.items) if by_items else summary.rate
            note = "" if by_items else f"p99 {summary.p99_ms:.1f} ms; {' '.join(ROOM)}"
            lines.append(Growth(table, name, label, round(value, 3), note))
    return lines


def _models(
    contender: Contender, python: Path, workload: Workload, seconds: float, cores: int, tell: Tell
) -> list[Growth]:
    """One of three models alone under all the load, then each under a third of it at the same time."""
    from benchmarks.models import rename_bundle

    row = Row("encode", 1, "binary", SHARED_CONNECTIONS)
    name, table = contender.name, f"{MODELS} models, encode of one: requests a second"
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        names = [f"model-{index}" for index in range(MODELS)]
        for each in names:
            rename_bundle(workload.bundle, Path(folder) / each, each)
        more = [word for each in names for word in ("--model", str(Path(folder) / each))]
        with visit(with_options(contender, more), python, workload, cores=cores) as visited:
            plain = contender.dialect.request(row, workload)
            requests = [replace(plain, path=f"{plain.path}?model={each}") for each in names]
            tell(f"growth, {name}: one model alone")
            _load(visited, requests[0], SHARED_CONNECTIONS, seconds / 4)
            alone = _load(visited, requests[0], SHARED_CONNECTIONS, seconds)
            with ThreadPoolExecutor(MODELS) as pool:
                share = SHARED_CONNECTIONS // MODELS
                rates = list(pool.map(lambda request: _load(visited, request, share, seconds), requests))
    lines = [Growth(table, name, f"one alone, {SHARED_CONNECTIONS} connections", round(alone, 1))]
    for each, rate in zip(names, rates, strict=True):
        tell(f"growth, {name}: {each}")
        note = f"{rate / sum(rates):.2f} of all"
        lines.append(Growth(table, name, f"{each} of {MODELS}, {share} connections", round(rate, 1), note))
    together = sum(rates)
    lines.append(Growth(table, name, "together", round(together, 1), f"{together / alone:.2f} of one alone"))
    return lines


def _load(visited: Visited, request: Request, connections: int, seconds: float) -> float:
    return load(visited.port, request, connections=connections, seconds=seconds).rate
