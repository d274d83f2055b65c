"""A short run of the real thing, in the environment of the tests, and what becomes of contenders that fail."""

import io
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import limits
from benchmarks.environments import Installation, Unavailable
from benchmarks.processes import MARK, PROC, Memory, StartFailed, started
from benchmarks.report import markdown
from benchmarks.results import Results
from benchmarks.roster import Contender, Place, standard
from benchmarks.rows import MAIN_ROWS, PICTURE_ROWS, Workload
from benchmarks.serving import Plan, matches, parse, plan_of, run
from benchmarks.visits import visit
from tests.support.programs import needs
from tests.support.tiny import write_tiny_bundle

ROWS = ("encode-1-json-1", "encode-64-binary-1", "decode-1-binary-16", "sample-*-1")


def own_python(installation: Installation) -> Path:
    if installation.name == "missing":
        raise Unavailable("no such package")
    return Path(sys.executable)


def marked() -> list[int]:
    """Every process that a benchmark started in this process."""
    found = []
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={os.getpid()}-".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def known(*names: str) -> tuple[Contender, ...]:
    return tuple(contender for contender in standard() if contender.name in names)


def going_wrong(name: str, body: str) -> Contender:
    """A peer that is a few lines of Python."""

    def command(place: Place) -> list[str]:
        return [str(place.python), "-c", textwrap.dedent(body), str(place.port)]

    return replace(known("fastapi")[0], name=name, command=command, packages=(), draws=False)


WRONG = """
    import http.server, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(8))
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
DYING = "import sys; print('out of luck'); sys.exit(3)"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of servers that work, of one that dies, of one that is wrong, and of one that cannot be installed."""
    needs("wrk")
    missing = replace(going_wrong("missing", DYING), installation=Installation("missing", (), Path(), ()))
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    plan = Plan(
        tables=("main", "pictures"),
        contenders=(
            going_wrong("dying", DYING),
            going_wrong("wrong", WRONG),
            missing,
            *known("ours", "fastapi", "fastapi-by-hand", "bare-asgi"),
        ),
        rows=ROWS,
        rounds=1,
        seconds=0.2,
        bundle=bundle,
        large_bundle=None,
        cores=1,
        start_seconds=60,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "images_a_second", lambda *_, **__: {"encode": 1e6, "decode": 1e6})
        return run(plan, own_python, Console(file=io.StringIO()))


def test_those_that_work_are_measured(results: Results) -> None:
    for name in ("ours", "fastapi", "fastapi-by-hand", "bare-asgi"):
        for row in ROWS[:3]:
            cell = results.tables["main"][row][name]
            assert cell.valid, cell.failure
            assert cell.rate > 0
    assert set(results.tables["pictures"]["sample-16-png-1"]) == {"ours", "fastapi", "fastapi-by-hand"}
    standing = results.standings["ours"]
    assert 0 < standing.cold_starts[0] < 60
    memory = standing.memory[0]
    assert 10 < memory.pss <= memory.rss <= memory.peak
    assert isinstance(memory, Memory)


@pytest.mark.parametrize("name", ["fastapi", "fastapi-by-hand"])
def test_color_is_right_too(name: str, tmp_path: Path) -> None:
    (contender,) = known(name)
    workload = Workload(write_tiny_bundle(tmp_path / "tiny", channels=3, height=8, width=10))
    with visit(contender, Path(sys.executable), workload, cores=1) as visited:
        for row in {row.request: row for row in (*MAIN_ROWS, *PICTURE_ROWS)}.values():
            visited.check(row)


def test_what_is_handmade_shares_the_environment_of_its_family() -> None:
    plain, by_hand = known("fastapi", "fastapi-by-hand")
    assert (plain.role, by_hand.role) == ("peer", "handmade")
    assert by_hand.installation == plain.installation


def test_those_that_fail_are_told_and_stop_nobody(results: Results) -> None:
    reasons = {(name, row): reason for _, row, name, reason in results.failures()}
    assert {name for name, _ in reasons} == {"dying", "wrong"}
    assert "status 3: out of luck" in reasons["dying", ROWS[0]]
    assert "mean" in reasons["wrong", ROWS[0]]
    assert results.standings["missing"].not_run == "no such package"
    report = markdown(results)
    assert "not run: no such package" in report
    assert "FAILED" in report
    assert "- dying: " in report


def test_nothing_is_left_running(results: Results) -> None:
    assert results.standings
    assert marked() == []


def test_helpers_that_leave_are_ended_too(tmp_path: Path) -> None:
    # The one that was started ends at once; its child is in a session of its own, and ignores being asked to end.
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    )
    parent = f"""
        import subprocess, sys
        process = subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session=True, stdout=subprocess.PIPE)
        process.stdout.readline()
    """
    command = [sys.executable, "-c", textwrap.dedent(parent)]
    with started(command, environment={}, folder=tmp_path, log=tmp_path / "log", patience=1) as server:
        server.process.wait(30)
        assert len(server.pids()) == 1
        with pytest.raises(StartFailed, match="ended with status 0"):
            server.check_alive()
        assert server.memory().processes == 1
    assert server.pids() == []
    assert marked() == []


def test_rows_and_contenders_that_do_not_exist_are_refused() -> None:
    needs("wrk")
    for options, words in (
        (["--contenders", "ours,nobody"], "no contender nobody; there are ours, ours-one-process, mosec"),
        (["--rows", "encode-2-*"], r"no row encode-2-\*; there are encode-1-json-1"),
        (["--only", "main,odd"], "no table odd; there are main"),
        (["--rounds", "0"], "at least one round"),
        (["--ours", "ours=--workers 2"], "two contenders have one name"),
    ):
        with pytest.raises(ValueError, match=words):
            plan_of(parse(options)[1])
    with pytest.raises(Unavailable, match="no commit no-such-commit"):
        plan_of(parse(["--revision", "no-such-commit"])[1])


def test_options_choose(tmp_path: Path) -> None:
    needs("wrk")
    bundle = write_tiny_bundle(tmp_path / "tiny")
    arguments = ["--contenders", "ours,mosec", "--only", "main", "--ours", "two=--workers 2", "--model", str(bundle)]
    plan = plan_of(parse([*arguments, "--rows", "decode-*-64"])[1])
    assert [contender.name for contender in plan.contenders] == ["ours", "two", "mosec"]
    place = Place(Path("bin/python"), 1, plan.bundle, tmp_path, 2)
    assert plan.contenders[1].command(place)[-2:] == ["--workers", "2"]
    rows = [row for _, row in plan.rows_of(plan.contenders[0], large=False)]
    assert len(rows) == 4
    assert all(matches(row, "decode-*-64") for row in rows)


def test_the_whole_default_run_is_short_enough() -> None:
    contenders = tuple(standard())
    _, options = parse([])
    tables = tuple(options.only.split(","))
    plan = Plan(tables, contenders, ("*",), options.rounds, options.seconds, Path(), Path(), 2)
    assert plan.estimate() < 40 * 60


def test_every_contender_is_pinned() -> None:
    for contender in standard():
        for file in contender.installation.decided_by:
            if file.parent.name == "contenders":
                lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
                assert lines
                assert all("==" in line for line in lines), file


def test_help_needs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--revision" in done.stdout
