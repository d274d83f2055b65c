"""The straight way to the gate: what ASGI would have answered, in its order, and with every bound of a connection."""

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
from app.protocol import bounded
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
    tiny: Path, *, straight: bool = True, seconds: float = LONG, keep_alive: float = LONG
) -> AsyncIterator[Bench]:
    service = create_app(Settings(models=(tiny,), parallel_runs=1, receive_seconds=seconds))
    asgi: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/metrics":
            asgi.append(scope["path"])
        await service(scope, receive, send)

    http = bounded(seconds, service.engine.ledger.enter, service.gate if straight else None)
    config = uvicorn.Config(app, http=http, ws="none", log_config=None, access_log=False, server_header=False)
    config.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # whole seconds are too long for a test
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server._serve([listener]))  # without its signals
        while not server.started:  # noqa: ASYNC110  (there is no event of it)
            await asyncio.sleep(0.01)
        await service.engine.warmed_up()
        made = Bench(server, service.engine, listener.getsockname()[1], asgi)
        try:
            yield made
        finally:
            server.should_exit = True
            for each in made.at_end:
                each()
            await serving


@on_either_loop
@pytest.mark.parametrize(
    "request_",
    [
        *(ENCODE, ENCODE.replace(BODY, b"x" * len(BODY)), SAMPLE, SAMPLE.replace(b"GET", b"HEAD", 1)),
        *(SAMPLE.replace(b"n=1", b"n=0"), SAMPLE.replace(b"n=1", b"model=other"), LAST, LAST.replace(b"n=1", b"n=0")),
        SAMPLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        SAMPLE.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"),
    ],
    ids=["encode", "body", "sample", "head", "query", "model", "close", "error", "old", "old and kept"],
)
async def test_the_answer_is_that_of_the_asgi_way(tiny: Path, request_: bytes) -> None:
    async def heard(*, straight: bool) -> list[object]:
        async with bench(tiny, straight=straight) as server:
            client = await server.connect(b"", request_)
            answers = [await client.hear(with_body=not request_.startswith(b"HEAD"))]
            if b"Connection: close" not in request_ and b"HTTP/1.0" not in request_:
                client.say(LAST)
                answers.append(await client.hear())
            await client.hear_end()
            assert len(server.asgi) == (0 if straight else len(answers))
            for each in answers:
                del each.headers["date"]
            return [(each.status_code, each.headers.raw, each.content) for each in answers]

    assert await heard(straight=True) == await heard(straight=False)


@on_either_loop
async def test_whole_requests_are_answered_in_order(tiny: Path) -> None:
    async with bench(tiny) as server:
        client = await server.connect()
        pieces = (SAMPLE.replace(b"mine", b"1"), ENCODE.replace(b"mine", b"2"), LAST.replace(b"mine", b"3"))
        (await server.hold(client, *pieces))[0].set()
        answers = [await client.hear() for _ in range(3)]
        assert [(each.status_code, each.headers["x-request-id"]) for each in answers] == [(200, i) for i in "123"]
        await client.hear_end()
        assert server.asgi == []


@on_either_loop
@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["unasked", "asked for"])
@BEFORE
async def test_a_body_that_comes_later(tiny: Path, before: bytes, expect: bytes) -> None:
    async with bench(tiny) as server:
        client = await server.connect(before, ENCODE_HEAD, expect, b"\r\n", b"" if expect else BODY[:50])
        if expect:
            assert (await client.hear()).status_code == 100
        await asyncio.sleep(0.05)
        client.say(BODY if expect else BODY[50:], LAST)
        assert [(await client.hear()).status_code for _ in range(2)] == [200, 200]
        await client.hear_end()


@on_either_loop
@BEFORE
async def test_a_body_that_never_comes(tiny: Path, before: bytes) -> None:
    async with bench(tiny, seconds=SHORT) as server:
        client = await server.connect(before, ENCODE[:-50])
        await client.hear_problem(408, "body-timeout")
        await server.counts()


@on_either_loop
@pytest.mark.parametrize("held", [False, True])
async def test_what_is_malformed_is_refused_after_the_answers(tiny: Path, held: bool) -> None:
    async with bench(tiny) as server:
        client = await server.connect()
        if held:
            (await server.hold(client, SAMPLE, MALFORMED))[0].set()
        else:
            client.say(SAMPLE, MALFORMED)
        assert (await client.hear()).status_code == 200
        await client.hear_problem(400, "bad-request")
        await server.counts()


@on_either_loop
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("keep_alive", [SHORT / 3, LONG])
async def test_a_next_head_that_never_ends(tiny: Path, keep_alive: float, apart: bool) -> None:
    async with bench(tiny, seconds=SHORT, keep_alive=keep_alive) as server:
        client = await server.connect(SAMPLE, b"" if apart else SAMPLE[:30])
        client.say(SAMPLE[:30] if apart else b"")
        await client.hear_problem(408, "head-timeout")


@on_either_loop
@pytest.mark.parametrize("seconds", [SHORT / 3, LONG])
async def test_an_idle_connection_is_kept_for_its_time(tiny: Path, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    async with bench(tiny, seconds=seconds, keep_alive=2 * SHORT) as server:
        client = await server.connect()
        for _ in range(3):
            client.say(SAMPLE)
            assert (await client.hear()).status_code == 200
            answered = loop.time()
            await asyncio.sleep(SHORT)
        await client.hear_end()
        assert 1.8 * SHORT < loop.time() - answered < 10


@on_either_loop
@pytest.mark.parametrize("said", [0, len(ENCODE_HEAD) + 40], ids=["head", "body"])
@BEFORE
async def test_a_trickle_is_bounded(tiny: Path, before: bytes, said: int) -> None:
    async with bench(tiny, seconds=SHORT, keep_alive=SHORT) as server:
        client = await server.connect(before, ENCODE[: said + 1])
        hearing, dripped = asyncio.create_task(client.hear()), said + 1
        while not hearing.done():
            client.say(ENCODE[dripped : (dripped := dripped + 1)])
            await asyncio.sleep(SHORT / 10)
        assert (await hearing).status_code == 408


@on_either_loop
@pytest.mark.parametrize("rest", [b"", SAMPLE, SAMPLE[:30]], ids=["alone", "another", "a head"])
@BEFORE
async def test_no_timer_ends_what_is_in_work(tiny: Path, before: bytes, rest: bytes) -> None:
    async with bench(tiny, seconds=SHORT / 3, keep_alive=SHORT / 3) as server:
        client = await server.connect(before)
        gate, _ = await server.hold(client, SAMPLE, rest)
        await asyncio.sleep(SHORT)
        gate.set()
        for _ in range(2 if rest == SAMPLE else 1):
            assert (await client.hear()).status_code == 200
        await (client.hear_problem(408, "head-timeout") if rest == SAMPLE[:30] else client.hear_end())


@on_either_loop
async def test_a_client_that_leaves_is_not_computed(tiny: Path) -> None:
    async with bench(tiny) as server:
        staying = await server.connect()
        gate, sizes = await server.hold(staying, SAMPLE)
        leaving = await server.connect(b"", SAMPLE.replace(b"n=1", b"n=2"))
        await server.counts('vae_queue_depth{graph="decoder",model="tiny"} 2.0')
        leaving.writer.close()
        await server.counts('vae_requests_total{method="GET",route="/sample",status="499"} 1.0')
        gate.set()
        assert (await staying.hear()).status_code == 200
        await server.counts()
        assert (sizes, server.asgi) == ([1], [])


@on_either_loop
async def test_what_is_in_work_is_answered_before_the_end(tiny: Path) -> None:
    async with bench(tiny) as server:
        idle = await server.connect(SAMPLE)
        client = await server.connect()
        gate, _ = await server.hold(client, SAMPLE)
        server.server.should_exit = True
        await idle.hear_end()
        gate.set()
        answer = await client.hear()
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        await client.hear_end()
