"""Every model server side by side, and the limits of the machine beside them: `make bench`.

Each contender has an environment of its own, serves the same two ONNX graphs, is held against ONNX Runtime's numbers
before and after each row, and is driven by wrk from one thread. In each round every contender is started anew, in
turns, so that a noisy machine disturbs all of them. Clients and servers share the cores.

    make bench                                                      everything, within 40 minutes on two cores
    make bench ARGS="--only main --contenders ours,mosec --rows 'encode-1-*' --rounds 1"
    make bench ARGS="--only main --revision HEAD~5 --ours 'two=--workers 2'"
"""

import argparse
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import environments, growth, limits, machine
from benchmarks.environments import WORK, Pythons, Unavailable
from benchmarks.processes import StartFailed
from benchmarks.report import markdown
from benchmarks.results import Results, Standing, write_whole
from benchmarks.roster import Contender, at_revision, ours, standard
from benchmarks.rows import LARGE_ROWS, MAIN_ROWS, PICTURE_ROWS, Row, Workload, WrongAnswer
from benchmarks.visits import START_SECONDS, WARM_SHARE, rest, run_rows, visit

TABLES = ("main", "pictures", "large", "growth")
LIMIT_SECONDS = 0.2
# What a visit and a row cost beside what is counted: only for the estimate.
VISIT_SECONDS, ROW_SECONDS = 6.0, 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: tables, contenders, rows of the main tables, rounds, seconds a row."""

    tables: tuple[str, ...]
    contenders: tuple[Contender, ...]
    rows: tuple[str, ...]
    rounds: int
    seconds: float
    bundle: Path
    large_bundle: Path | None
    cores: int
    start_seconds: float = START_SECONDS

    def rows_of(self, contender: Contender, *, large: bool) -> list[tuple[str, Row]]:
        """(table, row) of a visit with one of the two bundles."""
        if large:
            wanted = [("large", row) for row in LARGE_ROWS if contender.large and "large" in self.tables]
        else:
            wanted = [("main", row) for row in MAIN_ROWS if "main" in self.tables]
            wanted += [("pictures", row) for row in PICTURE_ROWS if contender.draws and "pictures" in self.tables]
        return [(table, row) for table, row in wanted if any(matches(row, pattern) for pattern in self.rows)]

    def steps(self) -> int:
        """Rows in all rounds, and the limits."""
        rows = sum(len(self.rows_of(one, large=large)) for one in self.contenders for large in (False, True))
        return self.rounds * (rows + len(self._bundles())) + len(self.growing()) * growth.STEPS

    def estimate(self) -> float:
        """Seconds, roughly."""
        visits = [self.rows_of(one, large=large) for one in self.contenders for large in (False, True)]
        row = self.seconds * (1 + WARM_SHARE) + ROW_SECONDS
        round_seconds = sum(VISIT_SECONDS + len(rows) * row for rows in visits if rows)
        round_seconds += len(self._bundles()) * 2 * len(limits.BATCHES) * 2 * LIMIT_SECONDS * 1.5
        return self.rounds * round_seconds + len(self.growing()) * growth.estimate(row)

    def _bundles(self) -> list[str]:
        return [table for table in ("main", "large") if table in self.tables]

    def growing(self) -> list[Contender]:
        """Those of ours whose growth is measured."""
        return [one for one in self.contenders if one.grows] if "growth" in self.tables else []


def matches(row: Row, pattern: str) -> bool:
    """Whether a pattern names a row: its whole name, or the name without the connections.

    >>> matches(Row("encode", 1, "json", 16), "encode-1-json"), matches(Row("encode", 1, "json", 16), "*-64")
    (True, False)
    """
    return fnmatch(row.name, pattern) or fnmatch(row.request, pattern)


def run(plan: Plan, pythons: Pythons, console: Console) -> Results:
    """Run a plan. Contenders that fail are reported in the results; the others go on."""
    results = Results(machine.facts(plan.cores))
    results.facts |= {
        "client": "wrk, one thread",
        "rounds": f"{plan.rounds}, {plan.seconds:g} s a row",
        "bundle": plan.bundle.name,
    }
    ready = prepare(plan, pythons, results, console)
    workloads = {"main": Workload(plan.bundle)}
    if "large" in plan.tables and plan.large_bundle is not None:
        workloads["large"] = Workload(plan.large_bundle)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("", total=plan.steps())

        def progress(words: str) -> None:
            bar.update(task, description=words, advance=1)

        for turn in range(plan.rounds):
            order = list(ready)
            order = order[turn % len(order) :] + order[: turn % len(order)] if order else []
            for table, workload in workloads.items():
                for contender in order:
                    rows = plan.rows_of(contender, large=table == "large")
                    told = partial(_told, progress, f"round {turn + 1}, {contender.name}: ")
                    if rows:
                        _round(
                            contender,
                            ready[contender],
                            workload,
                            rows,
                            plan,
                            results,
                            told,
                        )
                if table in plan.tables:
                    progress(f"round {turn + 1}: the graphs alone")
                    found = limits.images_a_second(workload.bundle, cores=plan.cores, seconds=LIMIT_SECONDS)
                    for operation, rate in found.items():
                        results.limits.setdefault(table, {}).setdefault(operation, []).append(rate)
        for contender in plan.growing():
            if contender in ready:
                results.growth += growth.measure(
                    contender, ready[contender], workloads["main"], plan.seconds, plan.cores, progress
                )
    return results


def prepare(plan: Plan, pythons: Pythons, results: Results, console: Console) -> dict[Contender, Path]:
    """Interpreters of all contenders that can be had here; the others are noted as not run."""
    ready = {}
    for contender in plan.contenders:
        standing = results.standings[contender.name] = Standing(contender.role, contender.note)
        try:
            with console.status(f"environment of {contender.name}"):
                python = pythons(contender.installation)
            standing.versions = {name: environments.version_of(python, name) for name in contender.packages}
            ready[contender] = python
        except Unavailable as problem:
            standing.not_run = str(problem)
            console.print(f"{contender.name}: not run: {problem}", highlight=False, markup=False)
    return ready


def _told(progress: Callable[[str], None], before: str, words: str) -> None:
    progress(before + words)


def _round(
    contender: Contender,
    python: Path,
    workload: Workload,
    rows: Sequence[tuple[str, Row]],
    plan: Plan,
    results: Results,
    progress: Callable[[str], None],
) -> None:
    """One visit: start, memory, rows, end."""
    standing = results.standings[contender.name]
    try:
        with visit(contender, python, workload, cores=plan.cores, start_seconds=plan.start_seconds) as visited:
            main = rows[0][0] != "large"
            if main:
                standing.cold_starts.append(visited.cold_start)
                rest(visited, [row for _, row in rows])
                at_rest = visited.server.memory()
            run_rows(visited, rows, results, seconds=plan.seconds, progress=progress)
            if main:
                standing.memory.append(replace(at_rest, peak=visited.server.memory().peak))
    except (StartFailed, WrongAnswer) as problem:
        for table, row in rows:
            progress(row.name)
            results.fail(table, row.name, contender.name, f"not started: {problem}")


def chosen(options: argparse.Namespace) -> tuple[Contender, ...]:
    """The contenders that the options name. Raises ValueError, which lists those that there are, and Unavailable."""
    known = standard()
    for given in options.ours:
        name, _, rest_of_it = given.partition("=")
        known.insert(1, ours(name, options=tuple(shlex.split(rest_of_it))))
    known += [at_revision(revision) for revision in options.revision]
    for given in options.python:
        name, _, interpreter = given.partition("=")
        for index, one in enumerate(known):
            if one.installation.name == name:
                known[index] = replace(one, installation=replace(one.installation, interpreter=interpreter))
    names = [contender.name for contender in known]
    if len(set(names)) < len(names):
        raise ValueError(f"two contenders have one name: {', '.join(names)}")
    if options.contenders is None:
        return tuple(known)
    wanted = options.contenders.split(",")
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"no contender {', '.join(unknown)}; there are {', '.join(names)}")
    added = {given.partition("=")[0] for given in options.ours}
    return tuple(one for one in known if one.name in wanted or one.name in added or "@" in one.name)


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", metavar="A,B", help="only these")
    parser.add_argument("--rows", default="*", metavar="A,B", help="patterns of rows: 'encode-1-*', '*-binary-64'")
    parser.add_argument("--only", default=",".join(TABLES), metavar="A,B", help=f"tables: {','.join(TABLES)}")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="a row and round (1)")
    parser.add_argument("--model", type=Path, help="bundle of the main rows; a small one with random weights")
    parser.add_argument("--revision", action="append", default=[], help="ours at a commit too; may be repeated")
    parser.add_argument("--ours", action="append", default=[], metavar="NAME=OPTIONS", help="ours with options too")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="interpreter of one of them")
    parser.add_argument("--output", type=Path, default=WORK / "results", help="folder of results.md and results.json")
    return parser, parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """What the options ask for. Raises ValueError where they make no sense, and Unavailable."""
    tables = tuple(options.only.split(","))
    if unknown := [table for table in tables if table not in TABLES]:
        raise ValueError(f"no table {', '.join(unknown)}; there are {', '.join(TABLES)}")
    patterns = tuple(options.rows.split(","))
    rows = (*MAIN_ROWS, *PICTURE_ROWS, *LARGE_ROWS)
    if unknown := [pattern for pattern in patterns if not any(matches(row, pattern) for row in rows)]:
        names = ", ".join(dict.fromkeys(row.name for row in rows))
        raise ValueError(f"no row {', '.join(unknown)}; there are {names}")
    if options.rounds < 1 or not 0 < options.seconds <= 60:
        raise ValueError("at least one round, and rows of 60 seconds at most")
    if shutil.which("wrk") is None:
        raise ValueError("wrk is not installed; on Debian and Ubuntu: apt install wrk")
    contenders = chosen(options)
    bundle = options.model or _made("small")
    large = _made("large") if "large" in tables else None
    cores = len(os.sched_getaffinity(0))
    return Plan(tables, contenders, patterns, options.rounds, options.seconds, bundle.resolve(), large, cores)


def _made(size: Literal["small", "large"]) -> Path:
    from benchmarks.models import fingerprint, make_bundle  # PyTorch takes seconds to import

    return make_bundle(size, WORK / "bundles" / f"{size}-{fingerprint()}", size)


def main() -> None:
    """Parse the options, run, and write the report."""
    console = Console(stderr=True)
    parser, options = parse()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        plan = plan_of(options)
    except (ValueError, Unavailable) as problem:
        parser.error(str(problem))
    console.print(f"about {plan.estimate() / 60:.0f} minutes, and what new environments take", highlight=False)
    try:
        results = run(plan, environments.environment, console)
    except KeyboardInterrupt:
        console.print("interrupted; no contender is left running, and nothing was written")
        sys.exit(130)
    results.write(options.output / "results.json")
    text = markdown(results)
    write_whole(options.output / "results.md", text)
    print(text)
    console.print(f"written to {options.output}", highlight=False)


if __name__ == "__main__":
    main()
