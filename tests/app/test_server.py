"""The real server in a process of its own, spoken to over a port: readiness, drain, chaos."""

import json
import random
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.app.client import assert_problem, grey, npy, picture, un_npy
from tests.support.server import Server, environment, serve_command, serving
from tests.support.tiny import write_tiny_bundle


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Server]:
    with serving(tiny, receive_seconds=1, max_body_bytes=100_000, drain_delay=0) as started:
        yield started


def answers(server: Server) -> bool:
    """Does it still do its work, exactly?"""
    response = httpx.post(
        f"{server.url}/encode",
        content=npy(grey(2)),
        headers={"content-type": "application/x-npy", "accept": "application/x-npy"},
        timeout=30,
    )
    return un_npy(response).shape == (2, 2) and httpx.get(f"{server.url}/readyz").status_code == 200


def test_it_serves(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.get("/readyz").json()["status"] == "ok"
        response = client.post("/encode", content=picture(grey(1)[0]), headers={"content-type": "image/png"})
        assert np.array(response.json()["latents"][0]["mean"]).shape == (2,)
        assert "server" not in response.headers
        response = client.get("/sample?n=4&seed=3")
        assert response.headers["content-type"] == "image/png"
        assert client.head("/sample?n=4&seed=3").headers["content-length"] == response.headers["content-length"]
        assert client.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_docs_need_no_network(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        page = client.get("/docs").text
        assert not re.search(r"(src|href)=\"(https?:)?//", page)
        assert 'validatorUrl": null' in page
        for asset in re.findall(r"(?:src|href)=\"([^\"]+)\"", page):
            assert client.get(f"/{asset}").status_code == 200
        assert client.get("/openapi.json").json()["info"]["title"] == "latentserve"


def raw(server: Server, *pieces: bytes, half_close: bool = False, read: bool = True) -> bytes:
    """Send bytes as they are; what comes back, if anything."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while read and (chunk := connection.recv(65536)):
                received += chunk
        except OSError:
            pass  # reset, silent, or gone before our half was closed (ENOTCONN): ends that such a conversation may have
        return received


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_slow_bodies_are_given_up(server: Server) -> None:
    received = raw(server, post("/encode", b"x", "Content-Type: image/png", length=1000))
    assert received.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in received


def test_heads_are_bounded_in_time_and_size(server: Server) -> None:
    assert raw(server, b"POST /encode HTTP/1.1\r\nHost").startswith(b"HTTP/1.1 408")
    assert raw(server, b"") == b""
    headers = b"".join(b"X-%d: %s\r\n" % (i, b"x" * 1000) for i in range(1000))
    assert raw(server, b"GET /livez HTTP/1.1\r\n" + headers + b"\r\n")[:12] in (b"", b"HTTP/1.1 431")


def test_what_is_no_request_is_counted(server: Server) -> None:
    raw(server, b"no HTTP at all\r\n\r\n")
    raw(server, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 2**18)
    text = httpx.get(f"{server.url}/metrics").text
    counted = dict(re.findall(r'vae_requests_total{method="OTHER",route="malformed",status="(\d+)"} ([\d.]+)', text))
    assert counted.keys() >= {"400", "431"}
    assert 'vae_rejections_total{reason="head too large"}' in text


def test_oversize_bodies_are_refused_by_their_header(server: Server) -> None:
    received = raw(server, post("/encode", b"", "Content-Type: image/png", length=10**12))
    assert received.startswith(b"HTTP/1.1 413")
    chunked = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    received = raw(server, chunked, *[b"8000\r\n" + b"x" * 0x8000 + b"\r\n"] * 4)
    assert received.startswith(b"HTTP/1.1 413")


def test_chaos(server: Server) -> None:
    """Garbage, lies, half-closed and broken connections, from many clients at once; then it still answers."""
    generator = random.Random(0)
    types = ["application/json", "image/png", "application/x-npy", "multipart/form-data; boundary=x", "text/plain", ""]
    paths = [
        "/encode",
        "/decode",
        "/reconstruct",
        "/interpolate",
        "/traverse",
        "/models",
        "/%ff",
        "//",
        "/docs/assets/x",
    ]
    bodies = [
        picture(grey(1)[0]),
        npy(grey(2)),
        npy(np.zeros((2, 2))),
        b'{"latents":[[0,0]]}',
        b"--x\r\n",
        b"[" * 5000,
    ]

    def attack(number: int) -> None:
        chance = random.Random(number)
        body = bytearray(chance.choice(bodies))
        for _ in range(chance.randrange(4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        request = post(
            chance.choice(paths),
            bytes(body),
            f"Content-Type: {chance.choice(types)}",
            length=len(body) + chance.choice([0, 0, 0, 10, -1]),
        )
        cut = chance.randrange(1, len(request))
        pieces = chance.choice([(request,), (request[:cut],), (request[:cut], request[cut:]), (chance.randbytes(300),)])
        raw(server, *pieces, half_close=chance.random() < 0.5, read=chance.random() < 0.5)

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(attack, [generator.randrange(2**32) for _ in range(200)]):
            pass
    assert server.process.poll() is None
    assert answers(server)
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "vae_requests_in_progress 0.0" in metrics
    assert 'status="500"' not in metrics
    assert not [line for line in server.log if "Traceback" in line]


def test_sigterm_finishes_what_runs(tmp_path: Path) -> None:
    """Not ready at once; what is in work is finished; then a clean end, and torch was never there."""
    slow = write_tiny_bundle(tmp_path / "slow", decoder="slow")
    with serving(slow, max_batch=1, drain_delay=0.5, drain_seconds=30) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(1) as pool:
            assert client.get("/readyz").status_code == 200
            running = pool.submit(httpx.get, f"{server.url}/sample?n=60&seed=1&format=npy", timeout=60)
            while "vae_requests_in_progress 1.0" not in client.get("/metrics").text:
                assert not running.done()
            server.signal()
            while (ready := client.get("/readyz")).status_code == 200:
                assert not running.done()
            assert ready.json()["status"] == "draining"
            assert un_npy(running.result()).shape == (60, 8, 8, 1)
        status, output = server.ended()
        assert status == 0, server.log
        assert output.split() == ["0", "0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    slow = write_tiny_bundle(tmp_path / "slow", decoder="slow")
    with serving(slow, max_batch=1, drain_delay=60, drain_seconds=60) as server:
        server.process.send_signal(number)
        while "draining" not in "".join(server.log):
            assert server.process.poll() is None
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        server.process.send_signal(number)
        assert server.ended()[0] == 128 + number
        assert "Traceback" not in "".join(server.log)


def test_what_outlasts_the_drain_is_told_so(tmp_path: Path) -> None:
    slow = write_tiny_bundle(tmp_path / "slow", decoder="slow")
    with serving(slow, max_batch=1, drain_delay=0, drain_seconds=0) as server:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(httpx.get, f"{server.url}/sample?n=256", timeout=60)
            while "vae_requests_in_progress 1.0" not in httpx.get(f"{server.url}/metrics").text:
                assert not running.done()
            server.signal()
            assert_problem(running.result(), 503, "not-ready")
        assert server.ended()[0] == 0, server.log


def test_an_unfit_bundle_ends_the_start(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bad")
    (bundle / "decoder.onnx").write_bytes(b"x")
    ended = subprocess.run(
        serve_command("--port", "0"),
        env=environment(models=bundle),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert re.fullmatch(r"vae: \S+decoder\.onnx: .+\n", ended.stderr)


def test_an_address_that_cannot_be_had_ends_the_start(tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, reason in (("127.0.0.1", "already in use"), ("192.0.2.1", ".+")):  # the latter is for documentation
            ended = subprocess.run(
                serve_command("--host", host, "--port", str(port)),
                env=environment(models=tiny),
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert ended.returncode == 1
            assert re.fullmatch(rf"vae: {re.escape(host)}:{port}: .*{reason}\n", ended.stderr)


def test_problem_documents_over_the_wire(server: Server) -> None:
    response = httpx.post(f"{server.url}/decode", content=b"{", headers={"content-type": "application/json"})
    assert json.loads(response.content)["request_id"] == response.headers["x-request-id"]
