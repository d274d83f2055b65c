"""A worker's server and what it says to the other end of its channel, which is here."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from app.engine import Engine
from app.express import protocol_of
from app.seat import CLOSED, CONNECTION, LEAVE, STARTED, WARM, Seat, SeatedServer

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Loop = Callable[[], asyncio.AbstractEventLoop]


class EngineDouble:
    """What a server asks of its engine."""

    def __init__(self, *, fit: bool = True) -> None:
        self.fit = fit
        self.told: list[str] = []
        self.refuses = asyncio.Event()

    async def warmed_up(self) -> None:
        pass

    def health(self) -> tuple[str, str]:
        return ("ok" if self.fit else "failed"), ""

    def leave(self) -> None:
        self.told.append("leave")

    def refuse(self) -> None:
        self.told.append("refuse")
        self.refuses.set()


class App:
    """Answers once it may."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[None] = asyncio.Queue()
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.put_nowait(None)
        await self.may.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Parent:
    """The other end."""

    def __init__(self, engine: EngineDouble, folder: Path) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.setblocking(False)
        self.app = App()
        config = uvicorn.Config(self.app, http=protocol_of(20.0), lifespan="off", log_config=None)
        self.server = SeatedServer(config, cast(Engine, engine), Seat(0, 1, folder, theirs))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self.serving = asyncio.create_task(self.server.serve())

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        client = asyncio.create_task(asyncio.open_connection(*self.listener.getsockname()))
        accepted, _ = await asyncio.to_thread(self.listener.accept)
        with accepted:
            socket.send_fds(self.channel, [CONNECTION], [accepted.fileno()])
        return await client

    async def heard(self, count: int) -> bytes:
        said = b""
        while len(said) < count:
            said += await asyncio.get_running_loop().sock_recv(self.channel, 100)
        return said

    async def ended(self) -> None:
        self.channel.shutdown(socket.SHUT_WR)
        await self.serving
        self.channel.close()
        self.listener.close()


def run(loop: Loop, body: Callable[[], Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await body()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(limited())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_connections_are_served_and_counted(loop: Loop, tmp_path: Path) -> None:
    async def body() -> None:
        engine = EngineDouble()
        parent = Parent(engine, tmp_path)
        assert await parent.heard(2) == STARTED + WARM
        clients = [await parent.connected() for _ in range(3)]
        for reader, writer in clients:
            writer.write(REQUEST)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        for protocol in parent.server.server_state.connections:
            own = cast(Any, protocol).transport.get_extra_info("socket")
            assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "small answers go out at once"
        for _, writer in clients[:2]:
            writer.close()
            await writer.wait_closed()
        assert await parent.heard(2) == CLOSED * 2
        parent.channel.send(LEAVE)
        reader, writer = await parent.connected()  # it goes on
        writer.write(REQUEST)
        assert await reader.readuntil(b"ok")
        assert engine.told == ["leave"]
        await parent.ended()
        assert engine.told == ["leave", "refuse"]
        assert await reader.read() == b"", "those that are idle are closed"
        for each in (writer, clients[2][1]):
            each.close()

    run(loop, body)


def test_what_it_has_is_answered_before_it_ends(tmp_path: Path) -> None:
    async def body() -> None:
        engine = EngineDouble()
        parent = Parent(engine, tmp_path)
        parent.app.may.clear()
        clients = [await parent.connected() for _ in range(20)]
        for _, writer in clients:
            writer.write(REQUEST)
        for _ in clients:
            await parent.app.asked.get()
        parent.channel.shutdown(socket.SHUT_WR)
        await engine.refuses.wait()
        parent.app.may.set()
        for reader, writer in clients:
            assert await reader.readuntil(b"ok")
            writer.close()
        await parent.ended()

    run(uvloop.new_event_loop, body)


def test_a_client_that_has_gone_is_counted(tmp_path: Path) -> None:
    async def body() -> None:
        parent = Parent(EngineDouble(), tmp_path)
        await parent.heard(2)
        with socket.create_connection(parent.listener.getsockname()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset
            accepted, _ = parent.listener.accept()
        with accepted:
            socket.send_fds(parent.channel, [CONNECTION], [accepted.fileno()])
        parent.channel.send(CONNECTION)  # one whose file did not come with it
        assert await parent.heard(2) == CLOSED * 2
        await parent.ended()

    run(uvloop.new_event_loop, body)


def test_one_that_is_not_fit_is_not_warm_and_one_without_a_parent_ends(tmp_path: Path) -> None:
    async def body() -> None:
        engine = EngineDouble(fit=False)
        parent = Parent(engine, tmp_path)
        assert await parent.heard(1) == STARTED
        parent.channel.close()
        await parent.serving
        parent.listener.close()
        assert engine.told == ["refuse"]

    run(uvloop.new_event_loop, body)
