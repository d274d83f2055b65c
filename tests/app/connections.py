"""A server of the tiny bundle on a port of its own, and clients that say bytes."""

import asyncio
import functools
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import httpx
import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from app.engine import Engine
from app.express import Lane, protocol_of
from app.service import create_app
from app.settings import Settings
from tests.app.client import assert_problem, grey, npy
from tests.app.test_refusals import hold, wait

SHORT, LONG = 0.3, 60.0
BODY = npy(grey(1))
HOST = b" HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n"
SAMPLE = b"GET /sample?n=1&seed=1" + HOST + b"\r\n"
LAST = b"GET /sample?n=1&seed=1" + HOST + b"Connection: close\r\n\r\n"
ENCODE_HEAD = b"POST /encode" + HOST + b"Content-Type: application/x-npy\r\nContent-Length: %d\r\n" % len(BODY)
ENCODE = ENCODE_HEAD + b"Accept: application/x-npy\r\n\r\n" + BODY
MALFORMED = b"POST /encode" + HOST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"
BEFORE = pytest.mark.parametrize("before", [b"", SAMPLE], ids=["alone", "after another"])


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))  # one segment, if it is not large

    async def hear(self, *, with_body: bool = True) -> httpx.Response:
        """The next answer, and no byte more."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode()[:-4].split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        length = int(dict(headers).get("content-length", "0")) if with_body else 0
        return httpx.Response(int(first.split()[1]), headers=headers, content=await self.reader.readexactly(length))

    async def hear_end(self) -> None:
        assert await self.reader.read() == b""

    async def hear_problem(self, status: int, slug: str) -> None:
        """A problem that is the last the server has to say."""
        answer = await self.hear()
        assert_problem(answer, status, slug)
        assert answer.headers["connection"] == "close"
        await self.hear_end()


@dataclass
class Bench:
    """A server of the tiny bundle, and the paths that it took the ASGI way."""

    server: uvicorn.Server
    engine: Engine
    lane: Lane | None
    port: int
    asgi: list[str]
    at_end: list[Callable[[], None]] = field(default_factory=list)

    async def hold(self, client: Client, *pieces: bytes) -> tuple[Event, list[int]]:
        """Say this and hold what it decodes, to the end at most."""
        entered, gate, sizes = hold(self.engine, "decoder")
        self.at_end.append(gate.set)
        client.say(*pieces)
        await wait(entered)
        return gate, sizes

    async def connect(self, before: bytes = b"", *pieces: bytes) -> Client:
        """A connection on which all of this was said at once, and ``before`` was answered, if there is any."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.at_end.append(client.writer.close)
        client.say(before, *pieces)
        if before:
            assert (await client.hear()).status_code == 200
        return client

    async def counts(self, line: str = "vae_requests_in_progress 0.0") -> None:
        """Until a line is among the metrics."""
        metrics: list[str] = []
        while line not in metrics:
            client = await self.connect(b"", b"GET /metrics" + HOST + b"Connection: close\r\n\r\n")
            metrics = (await client.hear()).text.splitlines()


def on_either_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a scenario on either loop: their transports buffer and close in ways of their own."""

    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def run(loop: Callable[[], asyncio.AbstractEventLoop], **arguments: object) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(test(**arguments), 10))

    own = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    vars(run)["__signature__"] = inspect.Signature([*inspect.signature(test).parameters.values(), own])
    wrapped: Callable[..., None] = run
    return wrapped


@asynccontextmanager
async def bench(
    tiny: Path, *, straight: bool = True, seconds: float = LONG, keep_alive: float = LONG, **more: object
) -> AsyncIterator[Bench]:
    values = {"models": (tiny,), "parallel_runs": 1, "receive_seconds": seconds} | more
    service = create_app(Settings.model_validate(values))
    asgi: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/metrics":
            asgi.append(scope["path"])
        await service(scope, receive, send)

    http = protocol_of(seconds, service.engine.ledger.enter, service.gate if straight else None)
    config = uvicorn.Config(app, http=http, ws="none", log_config=None, access_log=False, server_header=False)
    config.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # whole seconds are too long for a test
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server._serve([listener]))  # without its signals
        while not server.started:  # noqa: ASYNC110  (there is no event of it)
            await asyncio.sleep(0.01)
        await service.engine.warmed_up()
        made = Bench(server, service.engine, http.lane, listener.getsockname()[1], asgi)
        try:
            yield made
        finally:
            server.should_exit = True
            for each in made.at_end:
                each()
            await serving
