"""Where the parent of several workers accepts connections, and gives each to the worker that has the fewest."""

import errno
import logging
import selectors
import socket
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from itertools import count

from app.seat import CLOSED, CONNECTION, LEAVE, STARTED, WARM

logger = logging.getLogger(__name__)

AGAIN = 0.01
"""Seconds after which a channel is tried again that was full."""
_AT_A_TIME = 64  # connections, before what workers say is heard
_NO_FILES_SECONDS = 1.0  # without accepting, where no more files may be open; as asyncio does


@dataclass(eq=False)
class Worker:
    """A process, and what its parent knows of it."""

    index: int
    pid: int
    channel: socket.socket
    began: float = field(default_factory=time.monotonic)
    started: bool = False
    warm: bool = False
    told: bool = False
    gone: bool = False
    connections: int = 0
    turn: int = 0  # when it was last given one
    full_until: float = 0.0

    def hear(self) -> None:
        """What it has said; ``gone`` if nothing more can come."""
        try:
            said = self.channel.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        self.gone = not said
        self.connections -= said.count(CLOSED)
        self.started = self.started or STARTED in said
        self.warm = self.warm or WARM in said

    def give(self, connection: socket.socket) -> bool:
        """Could it take it?"""
        try:
            socket.send_fds(self.channel, [CONNECTION], [connection.fileno()])
        except OSError as error:
            self.gone = error.errno in (errno.EPIPE, errno.ECONNRESET)
            self.full_until = time.monotonic() + AGAIN  # of its channel, or of what may be on its way for one user
            return False
        self.connections += 1
        return True

    def tell_to_leave(self) -> None:
        """Not to be ready any more; ``told``, unless its channel is full."""
        try:
            self.channel.send(LEAVE)
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
        self.told = True

    def send_off(self) -> None:
        """Nothing more will come: what it has is to be finished."""
        try:
            self.channel.shutdown(socket.SHUT_WR)
        except OSError:
            self.gone = True


class Reception:
    """``selector`` looks after ``listeners`` as long as one of the ``workers``, who come and go, can take more."""

    def __init__(
        self, listeners: Sequence[socket.socket], workers: Sequence[Worker], selector: selectors.BaseSelector
    ) -> None:
        self.is_open = False
        self.complete = False
        """Were all workers ready once?"""
        self._listeners, self._workers, self._selector = listeners, workers, selector
        self._accepting = False
        self._paused_until = 0.0
        self._held: socket.socket | None = None  # that no worker could take yet
        self._turns = count(1)

    def again_at(self) -> list[float]:
        """When to `heed` though nothing happens."""
        if not self.is_open or self._accepting:
            return []
        now = time.monotonic()
        return [each for each in (self._paused_until, *(worker.full_until for worker in self._workers)) if each > now]

    def heed(self) -> None:
        """Accept connections if anyone can take them; until then the kernel keeps them."""
        able = self.is_open and time.monotonic() >= self._paused_until and self._next() is not None
        if able != self._accepting:
            for listener in self._listeners:
                if able:
                    self._selector.register(listener, selectors.EVENT_READ)
                else:
                    self._selector.unregister(listener)
            self._accepting = able
        if self._held is not None and able:
            held, self._held = self._held, None
            self._hand_over(held)

    def accept(self, ready: Container[object]) -> None:
        """Take what has come to those listeners that are ``ready``."""
        for listener in self._listeners:
            if listener in ready and self._accepting:
                self._accept(listener)

    def close(self) -> None:
        """Let no one in any more."""
        self.is_open = False
        self.heed()
        self.forget()

    def forget(self) -> None:
        """Close what is open in this process."""
        for each in self._listeners:
            each.close()
        if self._held is not None:
            self._held.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_A_TIME):
            if self._held is not None or self._next() is None:
                return
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.error("no connection can be accepted for a while: %s", error.strerror)
                self._paused_until = time.monotonic() + _NO_FILES_SECONDS
                return
            self._hand_over(connection)

    def _hand_over(self, connection: socket.socket) -> None:
        while (worker := self._next()) is not None:
            if worker.give(connection):
                worker.turn = next(self._turns)
                connection.close()
                return
        self._held = connection

    def _next(self) -> Worker | None:
        """Of the workers that can take a connection, the one that has the fewest.

        A server whose workers are not all ready yet is not ready: whoever asks, asks one that is not. A server that
        was ready leaves out a worker that takes another's place and is not ready yet.
        """
        now = time.monotonic()
        able = [each for each in self._workers if each.started and not each.gone and each.full_until <= now]
        asked = [each for each in able if each.warm == self.complete] or able
        return min(asked, key=lambda worker: (worker.connections, worker.turn), default=None)
