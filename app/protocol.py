"""uvicorn's HTTP protocol with bounds on what surrounds a request, and with our form for what never becomes one.

uvicorn lets a client hold a connection with half a head, with a body that trickles in after its answer, or with an
answer that is never read; and lets it fill the memory with headers. Here each of these ends after a bounded time or
size. (The time of a body that an operation waits for is bounded in `exchange`.)

And a request for an operation that has arrived whole, as small ones do, is taken to the gate straight away: what ASGI
asks for, messages of the body and of the answer with all of their checks, costs as much as all that the gate does.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from starlette.types import Message, Receive, Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.answers import Header
from app.errors import BadRequest, HeadTimeout, HeadTooLarge, ServiceError
from app.middleware import Gate, problem_answer, request_id_of, said_of
from app.notes import MALFORMED, Note

HEAD_BYTES = 64 * 2**10
LEAST_BYTES = 64 * 2**10  # of an answer that a client must take in the time, so that it can have a large one


class BoundedProtocol(HttpToolsProtocol):
    """Gives a client ``seconds`` for a request's head, for the rest of a body already answered, and to read on."""

    seconds = 20.0
    enter: Callable[[Note, int, float | None], None] = staticmethod(lambda note, status, seconds: None)
    gate: Gate | None = None  # if there is nothing around it

    _in_head = True
    _begun = False
    _segment_is_head = False
    _told_bytes = 0  # of the head, that the parser has told
    _held_bytes = 0  # of the head, that came in segments which hold nothing else: the parser tells whole lines only
    _refusal: ServiceError | None = None
    _alarm: asyncio.TimerHandle | None = None
    _then: Callable[[], None] | None = None
    _due = _rings_at = 0.0
    _write_alarm: asyncio.TimerHandle | None = None
    _unread = 0
    _running: RequestResponseCycle | None = None
    _waiting: RequestResponseCycle | None = None  # for the rest of its body, which may be in this segment

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None and not self._running.response_complete:  # uvicorn tells the last one only
            self._running.disconnected = True
            self._running.message_event.set()
        self._disarm()
        if self._alarm is not None:
            self._alarm.cancel()
        self._stop_watching()
        super().connection_lost(exc)

    # The head

    def data_received(self, data: bytes) -> None:
        self._segment_is_head = self._in_head
        super().data_received(data)
        if self._waiting is not None:
            cycle, self._waiting = self._waiting, None
            if not self.transport.is_closing():  # else what came after the head was no body
                super()._start_asgi_task(cycle, self.app)
        if self._segment_is_head:
            self._held_bytes += len(data)
            if self._held_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._refusal = _too_large()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()
        self._begun = True

    def on_url(self, url: bytes) -> None:
        self._tell(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._told_bytes += len(name) + len(value) + 4  # with a colon, a space, and the end of the line
        if self._told_bytes > HEAD_BYTES:
            self._tell(0)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = self._segment_is_head = False
        self._disarm()
        super().on_headers_complete()

    def _tell(self, count: int) -> None:
        self._told_bytes += count
        if self._told_bytes > HEAD_BYTES:
            self._refusal = _too_large()
            raise ValueError("the head is too large")  # ends the parsing, and so comes back as send_400_response

    def _await_head(self) -> None:
        self._in_head, self._begun = True, False
        self._told_bytes = self._held_bytes = 0
        self._arm(self._head_is_late)

    def _head_is_late(self) -> None:
        if self._busy():  # with the request before
            self._arm(self._head_is_late)
        elif self._begun:
            self._refuse(HeadTimeout("The request's head did not arrive in time."))
        else:
            self.transport.close()

    # The straight way of what has arrived whole

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        scope = cast(Scope, cycle.scope)
        if self.gate is None or app is not self.app or not self.gate.runs(scope):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._waiting = cycle
        else:
            self._go_straight(self.gate, cycle, scope)

    def _go_straight(self, gate: Gate, cycle: RequestResponseCycle, scope: Scope) -> "asyncio.Task[Note]":
        way_out = _Straight(cycle, self.server_state.default_headers)
        task = self.loop.create_task(gate.serve(scope, cast(Receive, cycle.receive), way_out, bytes(cycle.body)))
        self.tasks.add(task)  # type: ignore[arg-type]  # it has a result, which uvicorn does not look at
        task.add_done_callback(self._on_straight_end)
        return task

    def _on_straight_end(self, task: "asyncio.Task[Note]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.logger.error("an answer could not be sent", exc_info=error)
            self.transport.abort()

    # What is no request

    def send_400_response(self, msg: str) -> None:
        self._refusal = self._refusal or BadRequest("The request is not HTTP.")
        if self.pipeline and not self._in_head:  # of the request that waits last, and can be answered with nothing else
            self.pipeline.popleft()
            self.flow.pause_reading()
        elif self._in_head and self._busy():  # the requests before it are answered first
            self.flow.pause_reading()
        else:
            self._refuse(self._refusal)

    def _refuse(self, error: ServiceError) -> None:
        self._disarm()
        note = Note(request_id_of(dict(self.headers or ())), MALFORMED)
        answer = problem_answer(error, note)
        self.enter(note, answer.status, None)
        lines = [b"%b: %b\r\n" % header for header in (*answer.headers, *said_of(note), (b"connection", b"close"))]
        self.transport.write(b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", answer.body]))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        pass  # the server has no WebSockets by intent, and advice to install some would mislead

    # The rest of a body, and the answer

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._begun = True, False
        if self._waiting is not None:
            cycle, self._waiting = self._waiting, None
            self._start_asgi_task(cycle, self.app)
        if self.cycle.response_complete:
            self._await_head()

    def on_response_complete(self) -> None:
        """As in uvicorn, but for the timer of idle connections, which is the same as all others here."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self._watch_reading()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if cycle.more_body:  # the rest comes in other segments
                self._running = cycle
                super()._start_asgi_task(cycle, app)
            else:
                self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._refuse(self._refusal)
        elif self.cycle.more_body:
            self._arm(self.transport.abort)
        elif self._begun:
            self._arm(self._head_is_late)
        else:
            self._arm(self._idle_for_long, self.timeout_keep_alive)

    def _idle_for_long(self) -> None:
        if self.transport.get_write_buffer_size():  # the answer was not read to its end: closing waits for that
            self._watch_reading()
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def _watch_reading(self) -> None:
        self._stop_watching()
        self._unread = self.transport.get_write_buffer_size()
        self._write_alarm = self.loop.call_later(self.seconds, self._check_reading)

    def _check_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if not unread:
            self._stop_watching()
        elif self._unread - unread < LEAST_BYTES:
            self.transport.abort()
        else:
            self._watch_reading()

    # The timers

    def _busy(self) -> bool:
        """Is there a request without its answer?"""
        return self.cycle is not None and not self.cycle.response_complete

    def _arm(self, then: Callable[[], None], seconds: float | None = None) -> None:
        """Do ``then`` in some time, unless something else is armed before. What was to be done is not."""
        self._then = then
        self._due = self.loop.time() + (self.seconds if seconds is None else seconds)
        # A timer is begun for the earliest end only, and rings again for later ones: making one anew for every request
        # and its answer would cost as much as reading the head.
        if self._alarm is None or self._rings_at > self._due:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = self._due  # uvloop's timers do not all tell
        self._alarm = self.loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._then is not None:
            if self.loop.time() < self._due:
                self._set_alarm()
            else:
                then, self._then = self._then, None
                then()

    def _disarm(self) -> None:
        self._then = None

    def _stop_watching(self) -> None:
        if self._write_alarm is not None:
            self._write_alarm.cancel()
            self._write_alarm = None


_CLOSE = b"connection: close\r\n"


class _Straight:
    """The way out of the gate without ASGI's messages: one write, and uvicorn is told that the answer is complete."""

    __slots__ = ("_cycle", "_default_headers")

    def __init__(self, cycle: RequestResponseCycle, default_headers: list[tuple[bytes, bytes]]) -> None:
        self._cycle, self._default_headers = cycle, default_headers

    async def send(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        lines = [b"%b: %b\r\n" % header for header in (*self._default_headers, *headers)]
        if _CLOSE in lines:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            lines.append(_CLOSE)
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()

    async def forward(self, message: Message) -> None:
        raise NotImplementedError  # operations need no framework


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(f"A request's head may have at most {HEAD_BYTES} bytes.")
