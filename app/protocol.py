"""uvicorn's HTTP protocol with bounds on what comes before a request: its head's bytes, and the time that it takes.

uvicorn bounds neither, so that a client could hold a connection with half a head, or fill the memory with headers.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 2**10


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request head does not end within ``head_seconds`` or about HEAD_BYTES."""

    head_seconds = 20.0

    _in_head = True
    _head_bytes = 0
    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_ended()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's head is too large.")

    def _await_head(self) -> None:
        self._head_ended()
        self._in_head, self._head_bytes = True, 0
        self._alarm = self.loop.call_later(self.head_seconds, self.transport.close)

    def _head_ended(self) -> None:
        self._in_head = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


def bounded(head_seconds: float) -> type[BoundedProtocol]:
    """The protocol class with this bound, for uvicorn makes its protocols itself."""
    return type("BoundedProtocol", (BoundedProtocol,), {"head_seconds": head_seconds})
