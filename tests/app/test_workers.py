"""Several processes behind one port, as they are started: how clients are shared out, who is replaced, how it ends."""

import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import httpx
import pytest

from app import workers
from app.errors import ConfigurationError
from app.settings import Settings
from tests.app.client import grey, npy, picture, un_npy
from tests.support.load import Ask, Load
from tests.support.server import Server, environment, serve_command, serving
from tests.support.tiny import write_tiny_bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forks")
SECONDS = 60
IN_WORK = re.compile(r"^vae_requests_in_progress [12]", re.MULTILINE)


def until(happened: Callable[[], bool], server: Server) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)


def said(server: Server, pattern: str) -> list[str]:
    """What its log says so."""
    return re.findall(pattern, "".join(list(server.log)))


def pids(server: Server) -> list[int]:
    """The workers that ever were, in the order of their start."""
    return [int(pid) for pid in said(server, r"Started server process \[(\d+)\]")]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def working(bundle: Path | None = None, *, workers: int = 2, **settings: object) -> Iterator[Server]:
    """A server all of whose workers are ready; none of them is there afterwards."""
    with serving(bundle, workers=workers, **settings) as server:
        until(lambda: bool(said(server, f"all {workers} workers are ready")), server)
        try:
            yield server
        finally:
            server.process.kill()
            server.ended()
    until(lambda: not any(map(is_there, pids(server))), server)


class Kept:
    """A connection on which one request was answered, and of the next one half is sent."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
        self._socket.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert self._is_answered()
        self._socket.sendall(b"GET /livez HTTP/1.1\r\n")

    def goes_on(self) -> bool:
        """Is the second request answered?"""
        try:
            self._socket.sendall(b"Host: x\r\n\r\n")
            return self._is_answered()
        except (OSError, HTTPException):
            return False
        finally:
            self._socket.close()

    def _is_answered(self) -> bool:
        response = HTTPResponse(self._socket)
        response.begin()
        response.read()
        return response.status == 200


def test_connections_lie_evenly_and_a_worker_that_dies_takes_only_its_own(tiny: Path) -> None:
    with working(tiny, receive_seconds=600, drain_delay=0) as server:
        kept = [Kept(server) for _ in range(16)]
        dead, survivor = pids(server)
        os.kill(dead, signal.SIGKILL)
        assert sum(each.goes_on() for each in kept) == 8

        until(lambda: len(pids(server)) == 3, server)
        (line,) = said(server, r"worker \d \(process \d+\) was killed by \w+; it is replaced")
        assert f"(process {dead}) was killed by SIGKILL" in line
        until(lambda: len(said(server, "ready: tiny/1")) == 3, server)
        os.kill(survivor, signal.SIGKILL)  # the new one serves, and then another new one
        until(lambda: len(pids(server)) == 4, server)
        assert httpx.get(f"{server.url}/sample?n=1&seed=1", timeout=SECONDS).status_code == 200
        server.signal()
        status, output = server.ended()
        assert status == 0, server.log
        assert set(output.split()) == {"0"}, "neither torch nor training was imported"
        assert not said(server, "Traceback")


def test_every_request_of_a_load_is_answered_when_it_is_told_to_end(tiny: Path) -> None:
    """Those that were sent before it stopped to be ready, all of them; later ones, or they are refused in our form."""
    asks = [
        Ask("POST", "/encode", picture(grey(1)[0]), {"content-type": "image/png"}),
        Ask("POST", "/reconstruct", npy(grey(3)), {"content-type": "application/x-npy"}),
        Ask("GET", "/sample?n=9&seed=1"),
    ]
    with working(tiny, drain_delay=1, drain_seconds=30) as server:
        with Load(server.url, asks, threads=8) as load:
            load.wait(lambda: len(load.outcomes) >= 50 and len(load.in_flight()) >= 2)
            told = time.monotonic()
            server.signal()
            status, _ = server.ended()
        assert status == 0, server.log
        assert not [outcome for outcome in load.outcomes if outcome.broken]
        assert {outcome.status for outcome in load.outcomes if outcome.ended < told + 1} == {200}
        refused = [outcome for outcome in load.outcomes if outcome.status not in (200, None)]
        assert {outcome.problem for outcome in refused} <= {"not-ready"}


@contextmanager
def clients(server: Server) -> Iterator[list[httpx.Client]]:
    """One of each of two workers, if both have as many connections."""
    with httpx.Client(base_url=server.url, timeout=60) as one, httpx.Client(base_url=server.url, timeout=60) as two:
        yield [one, two]


def test_what_runs_is_finished_and_no_worker_is_ready_in_the_meantime(tmp_path: Path) -> None:
    slow = write_tiny_bundle(tmp_path / "slow", decoder="slow")
    with working(slow, max_batch=1, drain_delay=0.5) as server, ThreadPoolExecutor(2) as pool, clients(server) as both:
        assert {client.get("/readyz").status_code for client in both} == {200}
        running = [pool.submit(httpx.get, f"{server.url}/sample?n=40&seed=1&format=npy", timeout=60) for _ in range(2)]
        until(lambda: all(IN_WORK.search(client.get("/metrics").text) for client in both), server)
        server.signal()
        for client in both:
            while (ready := client.get("/readyz")).status_code == 200:
                assert not any(each.done() for each in running)
            assert ready.json()["status"] == "draining"
        assert [un_npy(each.result()).shape for each in running] == [(40, 8, 8, 1)] * 2
        assert server.ended()[0] == 0, server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_of_them_is_one_and_a_second_one_ends_them_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with working(None, drain_delay=600) as server:
        (folder,) = tmp_path.glob("vae-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for pid in (*pids(server), server.process.pid):  # as Ctrl-C in a terminal, and systemd
            os.kill(pid, number)
        until(lambda: bool(said(server, "draining")), server)
        for pid in pids(server):
            os.kill(pid, number)
        assert httpx.get(f"{server.url}/livez").status_code == 200, "drain_delay is not over"
        server.process.send_signal(number)
        assert server.ended()[0] == 128 + number
        assert not said(server, "Traceback")
        assert not list(tmp_path.iterdir())


def test_workers_without_their_parent_finish_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    slow = write_tiny_bundle(tmp_path / "slow", decoder="slow")
    with working(slow, max_batch=1, drain_delay=600) as server, ThreadPoolExecutor(1) as pool, clients(server) as both:
        running = pool.submit(httpx.get, f"{server.url}/sample?n=40&seed=1&format=npy", timeout=60)
        until(lambda: any(IN_WORK.search(client.get("/metrics").text) for client in both), server)
        server.process.kill()
        assert un_npy(running.result()).shape == (40, 8, 8, 1)
        assert server.ended()[0] == -signal.SIGKILL
        assert not list(tmp_path.glob("vae-*"))
        assert not said(server, "Traceback")


def test_a_signal_during_the_start_ends_it(tiny: Path) -> None:
    process = subprocess.Popen(
        serve_command("--port", "0", "--workers", "3"),
        env=environment(models=tiny, log_format="text"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    while "loaded" not in next(lines):
        pass
    process.send_signal(signal.SIGTERM)
    rest = "".join(lines)  # until the last of them is gone
    process.stderr.close()
    assert process.wait(SECONDS) in (0, 128 + signal.SIGTERM)
    assert "Traceback" not in rest


def ended(*options: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        serve_command("--workers", "2", *options),
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_an_unfit_bundle_ends_the_start(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bad")
    (bundle / "decoder.onnx").write_bytes(b"x")
    done = ended("--port", "0", models=bundle)
    assert done.returncode == 1
    assert re.fullmatch(r"vae: \S+decoder\.onnx: .+\n", done.stderr)


def test_an_address_that_cannot_be_had_ends_the_start(tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, reason in (("127.0.0.1", "already in use"), ("192.0.2.1", ".+")):
            done = ended("--host", host, "--port", str(port), models=tiny)
            assert done.returncode == 1
            assert re.fullmatch(rf"vae: {re.escape(host)}:{port}: .*{reason}\n", done.stderr)


def test_a_system_that_cannot_fork_serves_with_one_process(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    workers.check_workers(Settings(models=(tiny,)))
    with pytest.raises(ConfigurationError, match="fork"):
        workers.take_seat(Settings(models=(tiny,), workers=2))
