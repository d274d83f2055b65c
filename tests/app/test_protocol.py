"""What a client can do around a request: dawdle, flood, not read; each ends in time, and with an answer of our form."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.express import protocol_of
from app.protocol import HEAD_BYTES

Scenario = Coroutine[object, object, None]
Run = Callable[[Scenario], None]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SECONDS = 0.2


@dataclass
class Bench:
    """A server of `application`; `gone` is set when it lets a connection go."""

    port: int
    gone: asyncio.Event

    async def connect(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a scenario on either loop: their transports buffer and close in ways of their own."""
    made = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=made) as runner:
            runner.run(asyncio.wait_for(scenario, 60))

    return run


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """/early answers without reading, /large with 64 MiB, anything else with the length of the body."""
    body = b""
    if scope["path"] not in ("/early", "/large"):
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
    answer = b"x" * 2**26 if scope["path"] == "/large" else str(len(body)).encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    config = uvicorn.Config(application, http=protocol_of(SECONDS), ws="none", log_config=None, timeout_keep_alive=60)
    state, gone = ServerState(), asyncio.Event()

    class Watched(protocol_of(SECONDS)):  # type: ignore[misc]  # a class, made by a function
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            gone.set()

    def made() -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = Watched(config=config, server_state=state, app_state={})
        return protocol

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    async with server:
        yield Bench(server.sockets[0].getsockname()[1], gone)
        for connection in list(state.connections):
            connection.transport.abort()


async def said(bench: Bench, *pieces: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await bench.connect()
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


def assert_problem(answer: bytes, status: int, slug: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    document = json.loads(body)
    assert first.split()[1] == str(status)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert document["request_id"] == headers["x-request-id"]
    assert (document["status"], document["type"]) == (status, f"urn:problem-type:latentserve:{slug}")


def test_a_head_that_does_not_come(run: Run) -> None:
    async def scenario() -> None:
        async with bench() as server:
            assert await said(server) == b""
            assert_problem(await said(server, b"GET / HTTP/1.1\r\nX-Request-ID: mine\r\nHost"), 408, "head-timeout")
            assert b'"request_id":"mine"' in await said(server, b"GET / HTTP/1.1\r\nX-Request-ID: mine\r\nA: b\r\nHost")

    run(scenario())


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (HEAD_BYTES // 6 + 100),
        b"GET / HTTP/1.1\r\nX: " + b"y" * (HEAD_BYTES + 1000),
        b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_a_head_that_is_too_large(run: Run, head: bytes) -> None:
    async def scenario() -> None:
        async with bench() as server:
            # What a server closes unread resets its answer: not much more than the limit is sent, and at once.
            assert_problem(await said(server, head), 431, "head-too-large")
            assert_problem(await said(server, head[:500], head[500:]), 431, "head-too-large")

    run(scenario())


def test_what_is_not_http(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with bench() as server:
            assert_problem(await said(server, b"\x16\x03\x01\x00\r\n\r\n"), 400, "bad-request")
            chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"
            assert_problem(await said(server, chunked), 400, "bad-request")

    run(scenario())


def test_answers_keep_their_order(run: Run) -> None:
    async def scenario() -> None:
        async with bench() as server:
            answer = await said(server, b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n\x00\x01\r\n\r\n")
            first, second, refusal = answer.split(b"HTTP/1.1 ")[1:]
            assert (first[:3], second[:3]) == (b"200", b"200")
            assert_problem(b"HTTP/1.1 " + refusal, 400, "bad-request")

    run(scenario())


def test_a_body_is_no_part_of_the_next_head(run: Run) -> None:
    async def scenario() -> None:
        async with bench() as server:
            reader, writer = await server.connect()
            body = b"x" * (HEAD_BYTES + 5000)
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body + b"GET / HT")
            assert (await reader.readuntil(b"\r\n\r\n%d" % len(body))).startswith(b"HTTP/1.1 200")
            writer.write(b"TP/1.1\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()

    run(scenario())


def test_a_body_that_trickles_in_after_its_answer(run: Run) -> None:
    async def scenario() -> None:
        async with bench() as server:
            _, writer = await server.connect()
            writer.write(b"POST /early HTTP/1.1\r\nContent-Length: 100000\r\n\r\n")
            async with asyncio.timeout(20):
                while not server.gone.is_set():
                    writer.write(b"x")
                    await asyncio.sleep(SECONDS / 10)
            writer.close()

    run(scenario())


@pytest.mark.parametrize("rest", [b"", b"\r\n"])
def test_a_connection_is_not_kept_for_nothing(run: Run, rest: bytes) -> None:
    """After a late body, and after a line break that begins no request, a head is waited for again."""

    async def scenario() -> None:
        async with bench() as server:
            reader, writer = await server.connect()
            writer.write(b"POST /early HTTP/1.1\r\nContent-Length: 3\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n0")
            writer.write(b"abc")
            await asyncio.sleep(SECONDS / 2)
            writer.write(rest)
            assert await reader.read() == b""
            await server.gone.wait()
            writer.close()

    run(scenario())


def test_an_answer_that_nobody_reads(run: Run) -> None:
    async def scenario() -> None:
        async with bench() as server:
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\n\r\n")
                await server.gone.wait()

    run(scenario())


def test_a_slow_reader_has_its_answer(run: Run) -> None:
    async def scenario() -> None:
        async with bench() as server:
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.setblocking(False)
                await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\n\r\n")
                received, began = 0, loop.time()
                while received < 2**26:
                    received += len(await loop.sock_recv(client, 2**22))
                    if loop.time() - began < 4 * SECONDS:
                        await asyncio.sleep(SECONDS / 4)

    run(scenario())


def test_no_advice_to_install_websockets(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with bench() as server:
            reader, writer = await server.connect()
            writer.write(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
            writer.close()

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert caplog.records == []
