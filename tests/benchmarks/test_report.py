"""Recorded results become the tables that they should."""

from pathlib import Path

import pytest

from benchmarks.processes import Memory
from benchmarks.report import best_peer, markdown, of_limit, of_peer
from benchmarks.results import Growth, Results, Standing, read
from benchmarks.rows import MAIN_ROWS, Row
from benchmarks.wrk import Summary

GOLDEN = Path(__file__).with_name("report.md")
ENCODE, DECODE, PICTURE = "encode-1-json-16", "decode-64-binary-16", "sample-16-png-1"


def summary(rate: float, p99: float = 4.0) -> Summary:
    return Summary(int(rate * 2), 2.0, 1.0, p99)


@pytest.fixture
def results() -> Results:
    found = Results({"date": "a day", "cores": "2, shared by clients and servers"})
    found.standings = {
        "ours": Standing("ours", "vae serve", {"onnxruntime": "1"}, [1.0, 3.0, 1.5], [Memory(90.0, 80.0, 110.0, 1)]),
        "ours@0123abcd": Standing("ours", "vae serve"),
        "by-hand": Standing("handmade"),
        "quick": Standing("peer", "a | b", {"quick": "2"}, [0.5], [Memory(50.0, 40.0, 60.0, 3)]),
        "fastapi": Standing("peer"),
        "wrong": Standing("peer"),
        "absent": Standing("peer", not_run="no such package"),
        "bare-asgi": Standing("limit"),
    }
    rates = {
        "ours": [300, 100, 240],
        "ours@0123abcd": [120, 120, 120],
        "quick": [160, 100, 80],
        "fastapi": [90, 90, 95],
        "by-hand": [320, 320, 320],
        "bare-asgi": [480, 500, 470],
    }
    for name, rounds in rates.items():
        for rate in rounds:
            found.cell("main", ENCODE, name).rounds.append(summary(rate, {"ours": 2.0, "by-hand": 1.0}.get(name, 4.0)))
            found.cell("main", DECODE, name).rounds.append(summary(rate / 10))
    found.cell("main", ENCODE, "wrong").rounds.append(summary(9000))
    found.fail("main", ENCODE, "wrong", "encode-1-json: mean is off by 1")
    found.fail("main", ENCODE, "wrong", "a later reason")
    found.fail("main", DECODE, "wrong", "encode-1-json: mean is off by 1")
    found.cell("pictures", PICTURE, "ours").rounds.append(summary(500))
    found.cell("pictures", PICTURE, "by-hand").rounds.append(summary(400))
    found.cell("pictures", PICTURE, "fastapi").rounds.append(summary(100))
    found.limits = {"main": {"encode": [900.0, 1000.0, 1100.0], "decode": [2000.0, 1600.0, 1000.0]}}
    found.growth = [Growth("by items", "ours", "1 a request", 12.34), Growth("by items", "ours", "4", 0, "", "died")]
    return found


def test_the_report_is_the_golden_one(results: Results) -> None:
    assert markdown(results) == GOLDEN.read_text(encoding="utf-8")


def test_medians_and_ratios(results: Results) -> None:
    cell = results.cell("main", ENCODE, "ours")
    assert cell.rate == 240
    assert cell.spread == pytest.approx(200 / 240)
    peer = best_peer(results, "main", ENCODE)
    assert peer is not None
    assert peer[0] == "quick"  # not "wrong", whose answers were, nothing handmade, and no limit
    assert of_peer(results, "main") == pytest.approx({ENCODE: 2.4, DECODE: 2.4})
    row = next(row for row in MAIN_ROWS if row.name == DECODE)
    assert of_limit(results, "main", row, results.cell("main", DECODE, "ours")) == pytest.approx(24 * 64 / 1600)
    assert of_limit(results, "large", Row("encode", 1, "json", 16), cell) is None


def test_no_goal_is_measured_by_what_is_handmade(results: Results) -> None:
    goals = [line for line in markdown(results).splitlines() if line.startswith(("| ours / ", "| p99 ", "| pictures"))]
    faster = results.standings["by-hand"]
    assert "| ours / by-hand: median row (least, most) | 0.75 (0.75, 0.75) |  |  |" in goals
    assert not any(" | no |" in line for line in goals)
    faster.role = "peer"
    goals = [line for line in markdown(results).splitlines() if line.startswith(("| ours / ", "| p99 "))]
    assert goals[:3] == [
        "| ours / best peer, in each of 2 rows | 0.75 | 1.2 | no |",
        "| ours / best peer, the median row | 0.75 | 1.5 | no |",
        "| p99 of ours at most the best peer's, in each row | 1 of 2 | all | no |",
    ]


def test_pictures_are_held_against_plain_fastapi_alone(results: Results) -> None:
    results.cell("pictures", PICTURE, "quick").rounds.append(summary(250))
    assert best_peer(results, "pictures", PICTURE) == ("quick", results.cell("pictures", PICTURE, "quick"))
    assert "| pictures: ours / plain FastAPI, in each row | 5.00 | 4 | yes |" in markdown(results)
    del results.tables["pictures"][PICTURE]["fastapi"]
    assert "plain FastAPI" not in markdown(results)


def test_what_graphs_alone_are_of_the_best_peer_is_told(results: Results) -> None:
    for connections, rate in ((1, 5), (64, 20)):
        results.cell("main", f"decode-64-binary-{connections}", "quick").rounds.append(summary(rate))
    report = markdown(results)
    assert "| decode, 64 binary: graphs alone / best peer, its best row | 1.25 |  |  |" in report  # 1600 / (20 * 64)
    assert "| encode, 64 binary: graphs alone" not in report  # nobody was asked


def test_nothing_measured_is_a_report_too() -> None:
    assert "Nothing to compare" in markdown(Results())
    lonely = Results(standings={"slow": Standing("peer")})
    lonely.cell("main", ENCODE, "slow").rounds.append(summary(90))
    assert f"| {ENCODE} | — | slow | 90.0 | — |" in markdown(lonely)


def test_results_are_written_whole_and_read_again(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.json"
    results.write(path)
    assert read(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
