"""The express way of small requests whose head has been seen before: no parser, no task, no coroutine.

A client that keeps a connection sends the same head again and again. What it asks for was planned when it was first
seen; here the plan is looked up by the very bytes of the head, and followed on the spot: the rows are handed to the
batcher, and the answer is written when they come back. Whatever is not just so - an unknown head, a body that is not
whole, an error in it, a server that is full - is left to the way of all requests, which has an answer to everything;
nothing has been counted or held by then.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.answers import Answer, Header
from app.engine import Engine
from app.errors import ServiceError
from app.metrics import CLIENT_GONE
from app.middleware import Gate, new_request_id, problem_answer, said_with
from app.notes import Note
from app.outputs import Outputs, Rows
from app.plans import Given, Stages
from app.protocol import BoundedProtocol

logger = logging.getLogger(__name__)

MOST_HEADS = 512
LONGEST_HEAD = 4096  # bytes of a head that is remembered
_END = b"\r\n\r\n"
# Heads with these differ every time, or ask for more than an answer.
_OWN_WAY = frozenset({b"x-request-id", b"traceparent", b"expect", b"upgrade", b"transfer-encoding"})


class Known(NamedTuple):
    """What a head asks for."""

    plan: Stages
    route: str
    method: str
    length: int  # of the body


class Lane:
    """The heads that one process knows, and the way from a body to its errand."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._heads: dict[bytes, Known] = {}
        self.find = self._heads.get
        self._default_headers: Sequence[Header] = ()
        self._default_lines = b""

    def remember(self, head: bytes, note: Note, length: int) -> None:
        """A request with this head was understood as ``note`` has it. The heads known longest are forgotten."""
        plan = note.plan
        if not isinstance(plan, Stages) or not plan.express or note.method == "HEAD":
            return
        if not plan.is_light(1):  # else every body would be read here for nothing, and then once more
            return
        if not _OWN_WAY.isdisjoint(note.headers):
            return
        if len(self._heads) >= MOST_HEADS:
            del self._heads[next(iter(self._heads))]
        self._heads[head] = Known(plan, note.route, note.method, length)

    def take(self, known: Known, body: bytes, finish: Callable[[Answer, Note], None]) -> "Errand | None":
        """Begin to serve a request; ``finish`` gets its answer later. None, with nothing done, if it must go the way of
        all requests."""
        began = time.perf_counter()
        plan, engine = known.plan, self._engine
        try:
            engine.admit_whole(len(body))
        except ServiceError:
            return None
        try:
            given = plan.at_once(body)
            if given is not None and plan.is_light(len(given.rows)):
                engine.did(plan.first, time.perf_counter() - began)
                note = Note(new_request_id(), known.route, known.method, plan.model.label)
                errand = Errand(engine, plan, given, len(body), note, began, finish)
                errand.go_on(given.rows)
                return errand
        except Exception:  # whatever is wrong with the body is found again, and told, on the way of all requests
            logger.debug("not for the express way", exc_info=True)
        engine.dismiss(begun=True)
        engine.hold(-len(body))
        return None

    def head(self, answer: Answer, note: Note, default_headers: Sequence[Header]) -> tuple[bytes, ...]:
        """An answer's head, but for its end."""
        if default_headers is not self._default_headers:  # there are new ones once a second
            self._default_headers, self._default_lines = default_headers, _lines(default_headers)
        return (
            STATUS_LINE[answer.status],
            self._default_lines,
            b"x-request-id: %b\r\n" % note.request_id.encode(),
            _known_lines(said_with(note.model)),
            _known_lines(tuple(answer.headers)),
        )


class Errand:
    """One request on its way through the graphs of its plan: an `Asker` and a `Promise` to the batchers."""

    __slots__ = ("_began", "_engine", "_finish", "_given", "_graph", "_over", "_plan", "_size", "note")

    def __init__(
        self, engine: Engine, plan: Stages, given: Given, size: int, note: Note, began: float,
        finish: Callable[[Answer, Note], None],
    ) -> None:  # fmt: skip
        self._engine, self._plan, self._given, self._size = engine, plan, given, size
        self.note, self._began, self._finish = note, began, finish
        self._graph = 0
        self._over = False

    def go_on(self, rows: Rows) -> None:
        """To the next graph. Raises NotReady."""
        self._plan.model.batchers[self._plan.graphs[self._graph]].add(rows, self, self)

    def give_up(self) -> None:
        """The client has gone."""
        if not self._over:
            self.note.rejection = "client gone"
            self._end(CLIENT_GONE)

    # For the batcher

    def ran(self, rows: int) -> None:
        self.note.ran(rows)

    def waits(self) -> None:
        pass  # the connection says when its client goes

    def done(self) -> bool:
        return self._over

    def set_result(self, result: Outputs) -> None:
        try:
            self._graph += 1
            if self._graph < len(self._plan.graphs):
                self.go_on(result[0])
                return
            began = time.perf_counter()
            answer = self._plan.write(self._given, result)
            self._engine.did("write", time.perf_counter() - began)
        except Exception as error:
            self.set_exception(error)
        else:
            self._tell(answer)

    def set_exception(self, error: Exception) -> None:
        self._tell(problem_answer(error, self.note))

    def _tell(self, answer: Answer) -> None:
        self._end(answer.status)
        try:
            self._finish(answer, self.note)
        except Exception:  # which is no business of those who come after it in the batch
            logger.exception("an answer could not be sent")

    def _end(self, status: int) -> None:
        self._over = True
        self._engine.hold(-self._size)
        self._engine.dismiss(begun=True)
        self._engine.ledger.enter(self.note, status, time.perf_counter() - self._began)


class ExpressProtocol(BoundedProtocol):
    """Takes the express way where it can. One request of a connection is on it at a time, and no other beside it."""

    lane: Lane | None = None

    _errand: Errand | None = None
    _segment = b""  # that came when no request was begun
    _kept = b""  # what came before the answer was out

    def data_received(self, data: bytes) -> None:
        if self._errand is not None:
            self._kept += data
            self.flow.pause_reading()
            return
        if self.lane is not None and self._is_between():
            end = data.find(_END) + len(_END)
            known = self.lane.find(data[:end])
            if known is not None and len(data) == end + known.length and not self.flow.write_paused:
                self._errand = self.lane.take(known, data[end:], self._finish)
                if self._errand is not None:
                    self._disarm()
                    return
            self._segment = data
        super().data_received(data)
        self._segment = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._errand is not None:
            self._errand.give_up()
            self._errand = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._errand is None:
            super().shutdown()
        else:
            self._is_leaving = True

    _is_leaving = False

    def _is_between(self) -> bool:
        """Has nothing of a request come that is not answered?"""
        return self._in_head and not (self._begun or self._held_bytes or self._busy() or self._refusal)

    def _finish(self, answer: Answer, note: Note) -> None:
        self._errand = None
        assert self.lane is not None  # noqa: S101 (it gave the errand)
        if self.transport.is_closing():
            return
        lines = self.lane.head(answer, note, self.server_state.default_headers)
        self.server_state.total_requests += 1
        if self._is_leaving:
            self.transport.write(b"".join((*lines, b"connection: close\r\n\r\n", answer.body)))
            self.transport.close()
            return
        self.transport.write(b"".join((*lines, b"\r\n", answer.body)))
        if self._kept:
            kept, self._kept = self._kept, b""
            self.flow.resume_reading()
            self.data_received(kept)
        else:
            self._arm(self._idle_for_long, self.timeout_keep_alive)

    def _go_straight(self, gate: Gate, cycle: RequestResponseCycle, scope: Scope) -> "asyncio.Task[Note]":
        task = super()._go_straight(gate, cycle, scope)
        size = len(self._segment) - len(cycle.body)
        # What the parser took for head and body must be just what came, or the head is another.
        if self._segment.find(_END) + len(_END) == size <= LONGEST_HEAD and cycle.keep_alive:
            task.add_done_callback(partial(self._learn, self._segment[:size], len(cycle.body)))
        return task

    def _learn(self, head: bytes, length: int, task: "asyncio.Task[Note]") -> None:
        if self.lane is not None and not task.cancelled() and task.exception() is None:
            self.lane.remember(head, task.result(), length)


def protocol_of(
    seconds: float,
    enter: Callable[[Note, int, float | None], None] = BoundedProtocol.enter,
    gate: Gate | None = None,
) -> type[ExpressProtocol]:
    """The protocol class with this bound, for uvicorn makes its protocols itself.

    ``enter`` hears what it refuses; ``gate`` gets what it takes in whole.
    """
    lane = None if gate is None else Lane(gate.engine)
    about = {"seconds": seconds, "enter": staticmethod(enter), "gate": gate, "lane": lane}
    return type("ServerProtocol", (ExpressProtocol,), about)


def _lines(headers: Sequence[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_known_lines = lru_cache(maxsize=512)(_lines)  # an answer's own headers are few, and the same again and again
