"""One request as an operation sees it: headers and query at hand, the body on demand, its client perhaps gone.

What nearly every request does without is begun only where it is needed: the client is listened to from the moment
something takes its time, and not while a small request is answered within one turn of the event loop.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.types import Receive, Scope

from app.answers import Answer
from app.engine import Engine, Model, Stage
from app.errors import BodyTimeout, ClientGone, Invalid, TooLarge, invalid_query
from app.notes import Note, note_of
from app.schemas import Query

if TYPE_CHECKING:
    from app.plans import Plan

Q = TypeVar("Q", bound=Query)
Result = TypeVar("Result")

_LONGEST = 256  # bytes of a query string that is remembered


class Call:
    """What an operation gets. ``read`` gives the whole body; it is called at most once, after the cheap checks."""

    __slots__ = (
        "_begun", "_body", "_client_gone", "_drawn", "_late", "_length", "_listener", "_receive", "_size", "_task",
        "accept", "content_type", "engine", "note", "query_string",
    )  # fmt: skip

    def __init__(self, engine: Engine, scope: Scope, receive: Receive, body: bytes | None) -> None:
        self.engine, self._body = engine, body
        self.note: Note = note_of(scope)
        self.query_string: bytes = scope["query_string"]
        headers = self.note.headers
        self.accept = _text(headers.get(b"accept"))
        self.content_type = _text(headers.get(b"content-type"))
        self._length = headers.get(b"content-length")
        self._receive = receive
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._listener: asyncio.Task[None] | None = None
        self._client_gone = self._late = self._begun = False
        self._size = self._drawn = 0

    def query(self, shape: type[Q]) -> Q:
        """The query string as ``shape``: unknown, repeated or ill-formed parameters are refused (Invalid)."""
        read = _query if len(self.query_string) <= _LONGEST else _query.__wrapped__
        return cast(Q, read(shape, self.query_string))

    def model(self, name: str | None) -> Model:
        """The model asked for; from now on the answer names it. Raises ModelNotFound."""
        model = self.engine.model(name)
        self.note.model = model.label
        return model

    async def codec(self, stage: Stage, work: Callable[[], Result], *, light: bool) -> Result:
        """Read a body, make latents or write an answer: here if that is ``light``, else as `Engine.codec` does."""
        if light:
            return self.do(stage, work)
        self.waits()
        return await self.engine.codec(stage, work)

    def do(self, stage: Stage, work: Callable[[], Result]) -> Result:
        """Do what is light on the spot."""
        with self.engine.span(stage):
            return self.engine.do(stage, work)

    def ran(self, rows: int) -> None:
        """A graph ran on a batch of ``rows``, and some of them were this request's."""
        self.note.ran(rows)

    def waits(self) -> None:
        """From now on, cancel the request when its client leaves."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())

    async def read(self) -> bytes:
        """The body, within its limits. From here on the request counts as being worked on."""
        most = self.engine.settings.max_body_bytes
        declared = int(self._length[:20]) if self._length is not None and self._length.isdigit() else None
        if declared is not None and declared > most:
            raise self._too_large(most, close=declared > 4 * most)
        body = self._body
        if body is None:
            body = await self._receive_body(most)
        else:
            self._hold(len(body), most)
        self.engine.begin()
        self._begun = True
        return body

    async def _receive_body(self, most: int) -> bytes:
        # A timer of our own costs a third of asyncio.timeout().
        alarm = asyncio.get_running_loop().call_later(self.engine.settings.receive_seconds, self._give_up)
        try:
            return await self._collect(most)
        except asyncio.CancelledError:
            if self._late and self._task.uncancel() == 0:
                raise BodyTimeout(
                    "The request's body did not arrive in time.", headers={"Connection": "close"}
                ) from None
            raise
        finally:
            alarm.cancel()

    def _give_up(self) -> None:
        self._late = True
        self._task.cancel()

    async def _collect(self, most: int) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            self._hold(len(chunk), most)
            if not message.get("more_body", False):
                return b"".join((*chunks, chunk)) if chunks else chunk
            chunks.append(chunk)

    def _hold(self, size: int, most: int) -> None:
        self._size += size
        self.engine.hold(size)
        if self._size > most:
            raise self._too_large(most, close=True)

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._client_gone = True
        self._task.cancel()

    def _too_large(self, most: int, *, close: bool) -> TooLarge:
        # A client that is still sending hears an answer only if the rest is taken (and dropped); closing resets its
        # connection. A rest without end, or a huge one, is not worth that.
        return TooLarge(
            f"A request body may have at most {most} bytes.", headers={"Connection": "close"} if close else None
        )

    def draws(self, numbers: int) -> None:
        """Count so many numbers of latents that the request is about to draw. Raises Overloaded where the requests in
        work hold too many."""
        self._drawn += numbers
        self.engine.hold_drawn(numbers)

    def client_left(self) -> bool:
        """Was the request cancelled because its client has gone? Then the cancellation has done its work."""
        return self._client_gone and self._task.uncancel() == 0

    def close(self) -> None:
        """Give back what the request held."""
        self.engine.hold(-self._size)
        self.engine.hold_drawn(-self._drawn)
        self.engine.dismiss(begun=self._begun)
        if self._listener is not None:
            self._listener.cancel()


Operate = Callable[[Call], "Plan"]
"""Plans what a request's head asks for. Raises the 4xx errors of `app.errors`."""


async def perform(
    operate: Operate, engine: Engine, scope: Scope, receive: Receive, body: bytes | None = None
) -> Answer:
    """Admit a request, plan and run its operation, unless its client goes away first (ClientGone).

    The note gets the plan.

    Admission comes before the body is read, so that an overloaded server says so at once, and again after: a body that
    is slow to come must not take the place of one that is there.
    """
    call = Call(engine, scope, receive, body)
    engine.admit()
    try:
        plan = call.note.plan = operate(call)
        return await plan.run(call)
    except asyncio.CancelledError:
        if call.client_left():
            raise ClientGone from None
        raise
    finally:
        call.close()


@lru_cache(maxsize=1024)
def _query(shape: type[Query], text: bytes) -> Query:
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError:
        raise Invalid("The query string cannot be read.") from None
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Invalid("A query parameter is given more than once.")
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        raise invalid_query(error, shape) from None


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None
