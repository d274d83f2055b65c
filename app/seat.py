"""A worker's place beside others: a server whose connections come from the parent process (`workers`)."""

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from app.engine import Engine

# What is said over the channel, a byte each. A connection's byte comes with its file descriptor.
CONNECTION, LEAVE = b"c", b"l"  # to the worker; the channel's end tells it to finish and to go
STARTED, WARM, CLOSED = b"s", b"w", b"x"  # to the parent

_AT_A_TIME = 64  # messages, before the event loop turns to the requests that are there
_AGAIN = 0.05  # seconds until a channel that was full is tried again
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # not on macOS


@dataclass(frozen=True)
class Seat:
    """Which of how many workers this process is. Whoever replaces a worker that died has the same index."""

    index: int
    count: int
    folder: Path
    """Of this server's workers and no one else, until the server ends."""
    channel: socket.socket


class SeatedServer(uvicorn.Server):
    """uvicorn's server with the parent in the place of a listening socket, and of signals.

    It hears of every connection, of the time to be not ready, and of the time to go, in this order: nothing that the
    parent has accepted is left behind. If the parent is gone, so is whoever would send more: it finishes and goes.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, seat: Seat) -> None:
        super().__init__(config)
        self._engine, self._channel, self._folder = engine, seat.channel, seat.folder
        self._parent = os.getppid()
        self._unsaid = bytearray()
        self._speaking = False
        self._arriving: set[asyncio.Task[None]] = set()
        self._counted: Callable[..., asyncio.Protocol] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the parent's; here they are ignored, since a terminal sends them to all

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._loop = asyncio.get_running_loop()
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self._hear)
        self._say(STARTED)
        self._warming = self._loop.create_task(self._tell_warm())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._arriving:
            await asyncio.wait(self._arriving)
        await super().shutdown(sockets)
        self._loop.remove_reader(self._channel)
        self._channel.close()
        if os.getppid() != self._parent:  # who would have done so
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _tell_warm(self) -> None:
        await self._engine.warmed_up()
        if self._engine.health()[0] == "ok":
            self._say(WARM)

    def _hear(self) -> None:
        for _ in range(_AT_A_TIME):
            try:
                message, files, _, _ = socket.recv_fds(self._channel, 1, 1, _CLOSE_ON_EXEC)
            except BlockingIOError:
                return
            except OSError:
                message, files = b"", []
            if not message:
                self._loop.remove_reader(self._channel)
                self._engine.refuse()
                self.should_exit = True
                return
            if message == LEAVE:
                self._engine.leave()
            elif files:
                self._take(files[0])
            else:  # this process may open no more files, and so the connection was closed on its way
                self._left()

    def _take(self, file: int) -> None:
        connection = socket.socket(fileno=file)
        try:
            connection.setblocking(False)
            # asyncio does so for what it accepts; of another's socket it cannot tell everywhere that it is TCP's
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # reset by the client
            connection.close()
            self._left()
        else:
            task = self._loop.create_task(self._connect(connection))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
            self._left()

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes it."""
        if self._counted is None:
            self._counted = _counted(self.config.http_protocol_class, self._left)
        made: asyncio.Protocol = self._counted(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=self._loop
        )
        return made

    def _left(self) -> None:
        self._say(CLOSED)

    def _say(self, message: bytes) -> None:
        """What is said in one turn of the event loop is sent at its end, at once."""
        self._unsaid += message
        if not self._speaking:
            self._speaking = True
            self._loop.call_soon(self._speak)

    def _speak(self) -> None:
        self._speaking = False
        try:
            del self._unsaid[: self._channel.send(self._unsaid)]
        except BlockingIOError:
            pass
        except OSError:  # the parent is gone, or this is about to be
            self._unsaid.clear()
        if self._unsaid:
            self._speaking = True
            self._loop.call_later(_AGAIN, self._speak)


def _counted(protocol: type[asyncio.Protocol], left: Callable[[], None]) -> Callable[..., asyncio.Protocol]:
    """The protocol class that also calls ``left`` when a connection is over."""

    def connection_lost(self: asyncio.Protocol, error: Exception | None) -> None:
        protocol.connection_lost(self, error)
        left()

    return type(protocol.__name__, (protocol,), {"connection_lost": connection_lost})
