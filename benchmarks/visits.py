"""A visit to a contender: start it, hold its answers against ONNX Runtime's, drive it through its rows, end it."""

import http.client
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.dialects import Canned, check_answer
from benchmarks.environments import ROOT
from benchmarks.processes import Server, StartFailed, ask, free_port, started
from benchmarks.results import Results
from benchmarks.roster import Contender, Place
from benchmarks.rows import Row, Workload, WrongAnswer
from benchmarks.wrk import LoadFailed, Summary, load

FIRST = Row("encode", 1, "binary", 1)
START_SECONDS = 120.0
REST_SECONDS = 0.5
WARM_SHARE = 0.25
"""Of a row's seconds, before them and not counted."""
FEW = 3
LONGEST_ROW = 6.0
"""Seconds."""
NOT_ANSWERED = (OSError, http.client.HTTPException)


class Visited:
    """A contender that answers, for as long as it is visited."""

    def __init__(self, contender: Contender, server: Server, port: int, workload: Workload, cold_start: float) -> None:
        self.contender, self.server, self.port, self.workload = contender, server, port, workload
        self.cold_start = cold_start

    def check(self, row: Row) -> float:
        """One request on a connection of its own: its seconds. Raises WrongAnswer, also where there is no answer."""
        dialect = self.contender.dialect
        request = dialect.request(row, self.workload)
        began = time.perf_counter()
        try:
            status, body = ask(self.port, request)
        except NOT_ANSWERED as error:
            raise WrongAnswer(f"{row.request}: no answer: {error!r}") from None
        took = time.perf_counter() - began
        check_answer(dialect, row, status, body, self.workload)
        return took

    def measure(self, row: Row, seconds: float) -> Summary:
        """A row: checked, warmed, driven, and checked again. Raises WrongAnswer or LoadFailed."""
        request = self.contender.dialect.request(row, self.workload)
        # Where requests are slow, wrk gets the time for a few on each connection: it counts what it sees the end of.
        turn = self.check(row) * row.connections
        seconds = min(max(seconds, FEW * turn), max(seconds, LONGEST_ROW))
        warm = min(max(seconds * WARM_SHARE, turn), seconds)
        load(self.port, request, connections=row.connections, seconds=warm, idle=True)
        summary = load(self.port, request, connections=row.connections, seconds=seconds)
        self.check(row)
        return summary


@contextmanager
def visit(
    contender: Contender,
    python: Path,
    workload: Workload,
    *,
    cores: int,
    start_seconds: float = START_SECONDS,
) -> Iterator[Visited]:
    """A contender that gave its first right answer. Raises StartFailed or WrongAnswer; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        place = Place(python, free_port(), workload.bundle, folder, cores)
        if isinstance(contender.dialect, Canned):
            workload.write_answers(folder / "answers")
        command, settings = contender.command(place), contender.settings(place)
        with started(command, environment=settings, folder=ROOT, log=folder / "log") as server:
            first = _first_answer(contender, server, place.port, workload, start_seconds)
            yield Visited(contender, server, place.port, workload, first)


def _first_answer(contender: Contender, server: Server, port: int, workload: Workload, patience: float) -> float:
    request = contender.dialect.request(FIRST, workload)
    problem = "it does not listen"
    while time.perf_counter() - server.began < patience:
        server.check_alive()
        try:
            status, body = ask(port, request, timeout=patience)
        except NOT_ANSWERED:
            time.sleep(0.01)
            continue
        if status == 200:
            check_answer(contender.dialect, FIRST, status, body, workload)
            return time.perf_counter() - server.began
        problem = f"status {status}: {body[:200].decode(errors='replace')}"  # its models are not there yet
        time.sleep(0.01)
    raise StartFailed(f"no answer within {patience:.0f} s: {problem}: {server.last_words()}")


def run_rows(
    visited: Visited,
    rows: Sequence[tuple[str, Row]],
    results: Results,
    *,
    seconds: float,
    progress: Callable[[str], None],
) -> None:
    """Measure (table, row) after (table, row). One that fails is noted; a server that died fails all that is left."""
    name = visited.contender.name
    for table, row in rows:
        progress(row.name)
        try:
            visited.server.check_alive()
            summary = visited.measure(row, seconds)
        except (WrongAnswer, LoadFailed, StartFailed) as problem:
            died = visited.server.process.poll() is not None
            results.fail(table, row.name, name, f"died: {visited.server.last_words()}" if died else str(problem))
        else:
            results.cell(table, row.name, name).rounds.append(summary)


def rest(visited: Visited, rows: Sequence[Row]) -> None:
    """Let it answer one request of each kind, and settle: what it then holds is its memory at rest."""
    for row in {row.request: row for row in rows}.values():
        try:
            visited.check(row)
        except WrongAnswer:  # its row will say so
            continue
    time.sleep(REST_SECONDS)
