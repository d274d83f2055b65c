"""The results as Markdown: who took part, what each row gave, how ours stands, and which goals are met."""

import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks.results import Cell, Growth, Results
from benchmarks.rows import LARGE_ROWS, MAIN_ROWS, PICTURE_ROWS, Row

TITLES = {
    "main": "The small model",
    "pictures": "Pictures",
    "large": "The large model: 3 x 64 x 64, 128 latents",
}
ORDER = {row.name: row for row in (*MAIN_ROWS, *PICTURE_ROWS, *LARGE_ROWS)}

# The goals: ours over the best peer in each row and in their median, over the graphs alone with 64 binary items a
# request, and over plain FastAPI where pictures are read or written.
EACH_ROW, MEDIAN_ROW, OF_LIMIT, OF_FASTAPI = 1.2, 1.5, 0.9, 4.0
FASTAPI = "fastapi"

ROLES = (
    "Roles: ours is this server, the first of them what is compared; a peer is a server that one installs, or a "
    "framework used as its documentation teaches, and the best peer is what the goals are measured by; handmade is "
    "what an expert writes for just these rows, without what a server needs beside them, and no goal is measured by "
    "it; a limit answers without computing anything."
)


def markdown(results: Results) -> str:
    """The whole report."""
    parts = ["# Benchmark", _facts(results), "## Contenders", _standings(results), "## Goals", _goals(results)]
    for table, title in TITLES.items():
        if table in results.tables:
            parts += [f"## {title}", "Ours, the best peer, and the limits:", _ratios(results, table)]
            parts += ["Requests a second:", _cells(results, table, lambda cell: _number(cell.rate))]
            latency = _cells(results, table, lambda cell: f"{_ms(cell.p50_ms)} / {_ms(cell.p99_ms)}")
            parts += ["Latency in milliseconds, p50 / p99:", latency]
    if results.growth:
        parts += ["## Growth", _growth(results.growth)]
    if failures := results.failures():
        parts += ["## Failures", _failures(failures)]
    return "\n\n".join(parts) + "\n"


def best_peer(results: Results, table: str, row: str) -> tuple[str, Cell] | None:
    """The peer with the highest throughput among those whose every round was right."""
    cells = results.tables.get(table, {}).get(row, {})
    peers = {name: cell for name, cell in cells.items() if results.standings[name].role == "peer" and cell.valid}
    return max(peers.items(), key=lambda item: item[1].rate, default=None)


def our_name(results: Results) -> str:
    """The configuration of ours that is compared: the first."""
    return next((name for name, standing in results.standings.items() if standing.role == "ours"), "ours")


def our_cell(results: Results, table: str, row: str) -> Cell | None:
    """Ours in a row; nothing where it was not run or failed."""
    cell = results.tables.get(table, {}).get(row, {}).get(our_name(results))
    return cell if cell is not None and cell.valid else None


def of_other(results: Results, table: str, name: str) -> dict[str, float]:
    """Ours / a contender, of each row that both have."""
    found = {}
    for row, cells in results.tables.get(table, {}).items():
        cell, other = our_cell(results, table, row), cells.get(name)
        if cell is not None and other is not None and other.valid:
            found[row] = cell.rate / other.rate
    return found


def of_peer(results: Results, table: str) -> dict[str, float]:
    """Ours / best peer, of each row that both have."""
    found = {}
    for row in results.tables.get(table, {}):
        cell, peer = our_cell(results, table, row), best_peer(results, table, row)
        if cell is not None and peer is not None:
            found[row] = cell.rate / peer[1].rate
    return found


def of_limit(results: Results, table: str, row: Row, cell: Cell) -> float | None:
    """Images a second of a cell over those of the graphs alone."""
    limit = results.limit(table, row.operation)
    return None if limit is None else cell.rate * row.items / limit


def _facts(results: Results) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in results.facts.items())


def _standings(results: Results) -> str:
    lines = []
    for name, standing in results.standings.items():
        versions = ", ".join(f"{package} {version}" for package, version in standing.versions.items())
        if standing.not_run:
            lines.append([name, standing.role, versions, f"not run: {_plain(standing.not_run)}", *[""] * 5])
            continue
        cold = f"{statistics.median(standing.cold_starts):.2f}" if standing.cold_starts else ""
        memory = [""] * 4
        if standing.memory:
            fields = ("pss", "rss", "peak", "processes")
            memory = [f"{statistics.median(getattr(one, field) for one in standing.memory):.0f}" for field in fields]
        lines.append([name, standing.role, versions, _plain(standing.note), cold, *memory])
    head = ["contender", "role", "versions", "how", "cold start, s", "PSS, MiB", "RSS, MiB", "peak, MiB", "processes"]
    return as_table(head, lines) + (
        f"\n\n{ROLES}\n\n"
        "Cold start: from exec to the first right answer. Memory is that of all processes together, at rest after the "
        "first answers; PSS counts a shared page once, RSS in each process; the peak is each process's own, added."
    )


def _goals(results: Results) -> str:
    name = our_name(results)
    lines: list[list[str]] = []
    if standing := results.standings.get(name):
        failed = sum(other == name for _, _, other, _ in results.failures())
        lost = f"not run: {standing.not_run}" if standing.not_run else str(failed)
        lines.append(["rows of ours that failed", _plain(lost), "0", "no" if failed or standing.not_run else "yes"])
    ratios = of_peer(results, "main")
    if ratios:
        lines.append(_goal(f"ours / best peer, in each of {len(ratios)} rows", min(ratios.values()), EACH_ROW))
        lines.append(_goal("ours / best peer, the median row", statistics.median(ratios.values()), MEDIAN_ROW))
        worse = [row for row in ratios if _tail(results, "main", row) > 1]
        lines.append(
            ["p99 of ours at most the best peer's, in each row", f"{len(ratios) - len(worse)} of {len(ratios)}"]
        )
        lines[-1] += ["all", "no" if worse else "yes"]
    lines += _against_graphs(results)
    if pictures := of_other(results, "pictures", FASTAPI):
        lines.append(_goal("pictures: ours / plain FastAPI, in each row", min(pictures.values()), OF_FASTAPI))
    for other, standing in results.standings.items():
        if other != name and standing.role in ("ours", "handmade") and (found := of_other(results, "main", other)):
            low, middle, high = min(found.values()), statistics.median(found.values()), max(found.values())
            shown = f"{middle:.2f} ({low:.2f}, {high:.2f})"
            lines.append([f"{name} / {other}: median row (least, most)", shown, "", ""])
    if not lines:
        return "Nothing to compare."
    return as_table(["what", "value", "goal", "met"], lines) + (
        f"\n\nLines without a goal are for information. Where the graphs alone are less than {EACH_ROW:g} times the "
        "best peer, no server can reach the goal of that row."
    )


def _against_graphs(results: Results) -> list[list[str]]:
    """With 64 binary items a request, where the graphs take most of the time: how near to them ours and a peer come."""
    lines = []
    for operation in ("encode", "decode"):
        own, peers = [], []
        for row in MAIN_ROWS:
            if row.request == f"{operation}-64-binary":
                cell, peer = our_cell(results, "main", row.name), best_peer(results, "main", row.name)
                own.append(of_limit(results, "main", row, cell) if cell else None)
                peers.append(of_limit(results, "main", row, peer[1]) if peer else None)
        if shares := [share for share in own if share is not None]:
            lines.append(_goal(f"{operation}, 64 binary: ours / graphs alone, best row", max(shares), OF_LIMIT))
        if shares := [share for share in peers if share]:
            what = f"{operation}, 64 binary: graphs alone / best peer, its best row"
            lines.append([what, f"{1 / max(shares):.2f}", "", ""])
    return lines


def _goal(what: str, value: float, goal: float) -> list[str]:
    return [what, f"{value:.2f}", f"{goal:g}", "yes" if value >= goal else "no"]


def _tail(results: Results, table: str, row: str) -> float:
    """p99 of ours over that of the best peer."""
    cell, peer = our_cell(results, table, row), best_peer(results, table, row)
    return cell.p99_ms / peer[1].p99_ms if cell is not None and peer is not None and peer[1].p99_ms else 0.0


def _ratios(results: Results, table: str) -> str:
    beside = [name for name, standing in results.standings.items() if standing.role in ("handmade", "limit")]
    head = ["row", our_name(results), "best peer", "its rate", "ours / it", "p99 ours / its", "spread"]
    head += [f"ours / {name}" for name in beside] + ["ours / graphs alone"]
    lines = []
    for name, cells in _in_order(results.tables[table]):
        row, cell, peer = ORDER[name], our_cell(results, table, name), best_peer(results, table, name)
        line = [name, _number(cell.rate) if cell else "—"]
        line += [peer[0], _number(peer[1].rate)] if peer else ["—", "—"]
        if cell is not None and peer is not None:
            line += [f"{cell.rate / peer[1].rate:.2f}", f"{_tail(results, table, name):.2f}"]
        else:
            line += ["—", "—"]
        line.append(f"{cell.spread:.0%}" if cell else "—")
        for contender in beside:
            other = cells.get(contender)
            line.append(f"{cell.rate / other.rate:.2f}" if cell and other and other.valid else "—")
        share = of_limit(results, table, row, cell) if cell else None
        line.append("—" if share is None else f"{share:.2f}")
        lines.append(line)
    rates = {operation: results.limit(table, operation) for operation in ("encode", "decode")}
    alone = [f"{operation} {_number(rate)}" for operation, rate in rates.items() if rate]
    tail = f"\n\nThe graphs alone, images a second: {', '.join(alone)}." if alone else ""
    return as_table(head, lines) + tail


def _cells(results: Results, table: str, show: Callable[[Cell], str]) -> str:
    rows = results.tables[table]
    names = [name for name in results.standings if any(name in cells for cells in rows.values())]
    lines = []
    for row, cells in _in_order(rows):
        line = [row]
        for name in names:
            cell = cells.get(name)
            line.append("—" if cell is None else show(cell) if cell.valid else "FAILED")
        lines.append(line)
    return as_table(["row", *names], lines)


def _growth(growth: Sequence[Growth]) -> str:
    lines = []
    for line in growth:
        value = "FAILED" if line.failure else _number(line.value)
        lines.append([line.table, line.contender, line.line, value, _plain(line.failure or line.note)])
    return as_table(["table", "contender", "line", "value", "note"], lines)


def _failures(failures: Sequence[tuple[str, str, str, str]]) -> str:
    """A line for each reason, with all rows that failed for it."""
    rows: dict[tuple[str, str], list[str]] = {}
    for _, row, name, reason in failures:
        rows.setdefault((name, reason), []).append(row)
    return "\n".join(f"- {name}: {', '.join(found)}: {_plain(reason)}" for (name, reason), found in rows.items())


def _in_order(rows: dict[str, dict[str, Cell]]) -> Iterable[tuple[str, dict[str, Cell]]]:
    return ((name, rows[name]) for name in ORDER if name in rows)


def as_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column is of words, the others are of numbers."""
    shown = [head, ["---", *["---:" if i else "---" for i in range(1, len(head))]], *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown)


def ratio_cell(found: Sequence[float]) -> str:
    """The median of ratios, with the least and the most."""
    return f"{statistics.median(found):.2f} ({min(found):.2f}, {max(found):.2f})" if found else "—"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
