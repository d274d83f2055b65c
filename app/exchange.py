"""One request as an operation sees it: headers and query at hand, the body on demand, its client perhaps gone."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.types import Receive, Scope

from app.answers import Answer
from app.engine import Engine, Model
from app.errors import BodyTimeout, ClientGone, Invalid, TooLarge, invalid_query
from app.notes import Note, note_of
from app.schemas import Query

Q = TypeVar("Q", bound=Query)


@dataclass(slots=True)
class Call:
    """What an operation gets. ``read`` gives the whole body; it is called at most once, after the cheap checks."""

    engine: Engine
    note: Note
    query_string: bytes
    accept: str | None
    content_type: str | None
    read: Callable[[], Awaitable[bytes]]

    def query(self, shape: type[Q]) -> Q:
        """The query string as ``shape``: unknown, repeated or ill-formed parameters are refused (Invalid)."""
        if not self.query_string:
            return shape()
        try:
            pairs = parse_qsl(
                self.query_string.decode("ascii"), keep_blank_values=True, max_num_fields=32, errors="strict"
            )
        except ValueError:
            raise Invalid("The query string cannot be read.") from None
        values = dict(pairs)
        if len(values) < len(pairs):
            raise Invalid("A query parameter is given more than once.")
        try:
            return shape.model_validate(values)
        except ValidationError as error:
            raise invalid_query(error) from None

    def model(self, name: str | None) -> Model:
        """The model asked for; from now on the answer names it. Raises ModelNotFound."""
        model = self.engine.model(name)
        self.note.model = model.label
        return model


Operate = Callable[[Call], Awaitable[Answer]]


async def perform(operate: Operate, engine: Engine, scope: Scope, receive: Receive) -> Answer:
    """Admit a request and run its operation, unless its client goes away first (ClientGone).

    Admission comes before the body is read, so that an overloaded server says so at once, and again after: a body that
    is slow to come must not take the place of one that is there.
    """
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers[name] = headers[name] + b", " + value if name in headers else value
    content_type = headers.get(b"content-type")
    accept = headers.get(b"accept")
    with engine.admission() as begin:
        body = _Body(receive, headers.get(b"content-length"), engine, begin)
        call = Call(
            engine,
            note_of(scope),
            scope["query_string"],
            accept.decode("latin-1") if accept is not None else None,
            content_type.decode("latin-1") if content_type is not None else None,
            body.read,
        )
        try:
            return await operate(call)
        except asyncio.CancelledError:
            if body.client_gone:
                task = asyncio.current_task()
                if task is not None and task.uncancel() == 0:
                    raise ClientGone from None
            raise
        finally:
            body.close()


@dataclass(slots=True)
class _Body:
    """Reads a body under its limits, then listens for the client's leaving and cancels the request when it does."""

    receive: Receive
    length: bytes | None
    engine: Engine
    begin: Callable[[], None]
    client_gone: bool = False
    size: int = 0
    _listener: asyncio.Task[None] | None = field(default=None)

    async def read(self) -> bytes:
        most = self.engine.settings.max_body_bytes
        declared = int(self.length[:20]) if self.length is not None and self.length.isdigit() else None
        if declared is not None and declared > most:
            raise self._too_large(most, close=declared > 4 * most)
        try:
            async with asyncio.timeout(self.engine.settings.receive_seconds):
                body = await self._collect(most)
        except TimeoutError:
            raise BodyTimeout("The request's body did not arrive in time.", headers={"Connection": "close"}) from None
        self.begin()
        self._listener = asyncio.create_task(self._listen(asyncio.current_task()))
        return body

    async def _collect(self, most: int) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            self.size += len(chunk)
            self.engine.hold(len(chunk))
            if self.size > most:
                raise self._too_large(most, close=True)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _listen(self, task: "asyncio.Task[object] | None") -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        if task is not None:
            task.cancel()

    def _too_large(self, most: int, *, close: bool) -> TooLarge:
        # A client that is still sending hears an answer only if the rest is taken (and dropped); closing resets its
        # connection. A rest without end, or a huge one, is not worth that.
        return TooLarge(
            f"A request body may have at most {most} bytes.", headers={"Connection": "close"} if close else None
        )

    def close(self) -> None:
        self.engine.hold(-self.size)
        if self._listener is not None:
            self._listener.cancel()
