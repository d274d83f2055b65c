"""What wrk says, read and driven."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.dialects import Request
from benchmarks.wrk import LoadFailed, load, parse, write_script
from tests.support.programs import needs

LINE = (
    'wrk-summary {"requests":1200,"microseconds":2000000,"bytes":9,"p50":1500.0,"p99":9000.0,"errors":'
    '{"connect":0,"read":0,"write":0,"status":0,"timeout":0}}'
)


def test_a_summary_is_read() -> None:
    summary = parse(f"Running 2s test @ http://127.0.0.1:1\n  1 threads and 16 connections\n{LINE}\n")
    assert (summary.requests, summary.seconds, summary.rate) == (1200, 2.0, 600.0)
    assert (summary.p50_ms, summary.p99_ms) == (1.5, 9.0)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("connect", "refused"), ("read", "reads"), ("write", "writes"), ("status", "no success"), ("timeout", "timeouts")],
)
def test_one_error_of_any_kind_fails_a_row(kind: str, words: str) -> None:
    with pytest.raises(LoadFailed, match=f"3 .*{words}.*of 1200"):
        parse(LINE.replace(f'"{kind}":0', f'"{kind}":3'))


def test_no_summary_and_no_answer_fail_a_row() -> None:
    with pytest.raises(LoadFailed, match=r"no summary: unable to connect"):
        parse("unable to connect\n")
    nothing = LINE.replace("1200", "0")
    with pytest.raises(LoadFailed, match="not one answer"):
        parse(nothing)
    assert parse(nothing, idle=True).requests == 0


def test_a_script_holds_the_request(tmp_path: Path) -> None:
    request = Request("/encode", {"Content-Type": "image/png", "X-Odd": 'a "quoted" \\ word'}, b"\x00\r\n\xff")
    script = write_script(tmp_path, request).read_text()
    assert 'wrk.method = "POST"' in script
    assert 'wrk.headers["X-Odd"] = "a \\"quoted\\" \\\\ word"' in script
    assert (tmp_path / "body").read_bytes() == request.body
    assert 'wrk.method = "GET"' in write_script(tmp_path, Request("/sample")).read_text()


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives one status, and the bodies that it was sent."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], bodies
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_load_sends_the_body_and_counts() -> None:
    needs("wrk")
    request = Request("/", {"Content-Type": "application/x-npy"}, b"\x93NUMPY\x00\r\n\r\n\xff")
    with answering(200) as (port, bodies):
        summary = load(port, request, connections=2, seconds=0.2)
    assert summary.requests > 0
    assert 0.1 < summary.seconds < 5
    assert set(bodies) == {request.body}


def test_an_answer_that_is_no_success_fails_a_row() -> None:
    needs("wrk")
    with answering(503) as (port, _), pytest.raises(LoadFailed, match="no success"):
        load(port, Request("/", {}, b"x"), connections=1, seconds=0.2)
