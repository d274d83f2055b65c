"""What surrounds every request: its id, API keys, errors as problems, headers, metrics.

    (Cors ->) Gate -> an operation or a probe, straight away
                   -> FastAPI: documentation, routing of everything else

The gate runs operations itself: FastAPI's machinery for one request costs more than a small model's inference. Both
ways run the same functions.
"""

import asyncio
import hashlib
import hmac
import logging
import random
import re
import time
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.answers import Answer, Header
from app.engine import Engine
from app.errors import (
    PROBLEM_TYPE,
    ClientGone,
    NotReady,
    Unauthorized,
    UnsupportedMediaType,
    of_status,
    problem,
    translate,
)
from app.exchange import Operate, perform
from app.metrics import CLIENT_GONE
from app.notes import SCOPE_KEY, UNMATCHED, Note, method_of
from app.operations import OPERATIONS
from app.probes import PROBES
from app.tracing import spans_module

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")
_OPEN = frozenset({"/", "/livez", "/readyz", "/health", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/docs/assets/"
_OPERATED = frozenset(path for _, path in OPERATIONS)
_MODELS = re.compile(r"/models(/[^/]+(/card)?)?")
_TEMPLATES = ("/models/{name}/card", "/models/{name}", "/models")


class Gate:
    """The outermost layer. Nothing leaves it but answers in our form, and every one is counted and carries its id.

    ``operations`` are run without ``app``, by method and path.
    """

    def __init__(
        self,
        app: ASGIApp,
        engine: Engine,
        *,
        keys: Collection[SecretStr] = (),
        operations: Mapping[tuple[str, str], Operate],
    ) -> None:
        self._app, self.engine, self._operations = app, engine, operations
        self._keys = [_digest(key.get_secret_value().encode()) for key in keys]
        self._root_path = engine.settings.root_path
        self._spans = spans_module(engine.settings)

    def runs(self, scope: Scope) -> bool:
        """Is the request for an operation, which needs nothing but the gate?"""
        method = scope["method"]
        return ("GET" if method == "HEAD" else method, local_path(scope)) in self._operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.serve(scope, receive, _Messages(send))
        else:
            await self._app(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, way_out: "WayOut", body: bytes | None = None) -> Note:
        """One request, from its head to the last byte of its answer. ``body`` is its body if that is there already."""
        began = time.perf_counter()
        headers = headers_of(scope["headers"])
        method = scope["method"]
        note = Note(request_id_of(headers), method=method_of(method), headers=headers)
        if self._spans is not None:
            self._spans.redact_span()
        scope[SCOPE_KEY] = note
        if method == "HEAD" or self._root_path:  # HEAD is GET without the body, on every route
            scope = {**scope, "method": "GET" if method == "HEAD" else method, "root_path": self._root_path}
        reply = _Reply(way_out, note, with_body=method != "HEAD")
        try:
            self._check(scope, headers, note)
            answer = await self._answer(scope, receive, note, body)
            if answer is None:
                if self._template(scope) == UNMATCHED:  # what scanners ask for is no reason to load the framework
                    raise of_status(404)
                await self._app(scope, receive, reply.forward)
                if note.error is not None:
                    raise note.error
            else:
                await reply.send(answer)
        except ClientGone:
            reply.status, note.rejection = CLIENT_GONE, "client gone"
        except asyncio.CancelledError:
            # The client is there, so that it is the server that has no more time: its drain is over.
            if reply.status:
                raise
            await reply.send(problem_answer(NotReady("The server is shutting down."), note))
        except Exception as error:
            if reply.status:  # too late for another answer; the server closes the connection
                raise
            await reply.send(problem_answer(error, note))
        finally:
            if note.route == UNMATCHED:
                note.route = self._route_of(scope)
            self.engine.ledger.enter(note, reply.status or CLIENT_GONE, time.perf_counter() - began)
        return note

    async def _answer(self, scope: Scope, receive: Receive, note: Note, body: bytes | None) -> Answer | None:
        """What an operation or a probe answers; None if the request is for neither."""
        path = local_path(scope)
        operate = self._operations.get((scope["method"], path))
        if operate is not None:
            note.route = path
            if self._spans is not None:
                self._spans.name_span(note.method, path)
            return await perform(operate, self.engine, scope, receive, body)
        if path in PROBES and scope["method"] == "GET":
            note.route = path
            return await PROBES[path](self.engine)
        return None

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes], note: Note) -> None:
        if self._keys and not self._is_open(scope) and not self._has_key(headers):
            note.route = self._template(scope)
            raise Unauthorized
        if b"content-encoding" in headers:
            note.route = self._template(scope)
            raise UnsupportedMediaType(
                "Send the body without Content-Encoding.", headers={"Accept-Encoding": "identity"}
            )

    def _route_of(self, scope: Scope) -> str:
        """The template of the route that FastAPI found; documentation, which Starlette serves itself, is named here."""
        if "route" in scope:
            template: str = scope["route"].path
            return template
        path = scope["path"].removeprefix(self._root_path)  # a mount has changed the root path meanwhile
        if path.startswith(_OPEN_FOLDER):
            return f"{_OPEN_FOLDER}{{path}}"
        return path if path in _OPEN else UNMATCHED

    def _template(self, scope: Scope) -> str:
        """The template of the route that a request asks for, where the request does not get there."""
        path = local_path(scope)
        if path in _OPERATED or path in PROBES or path in _OPEN:
            return path
        if path.startswith(_OPEN_FOLDER):
            return f"{_OPEN_FOLDER}{{path}}"
        match = _MODELS.fullmatch(path)
        return _TEMPLATES[sum(group is None for group in match.groups())] if match else UNMATCHED

    @staticmethod
    def _is_open(scope: Scope) -> bool:
        path = local_path(scope)
        return path in _OPEN or path.startswith(_OPEN_FOLDER)

    def _has_key(self, headers: Mapping[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        # Either may be meant for someone else: a proxy in front may have a bearer token of its own.
        given = (
            _digest(token.strip() if scheme.lower() == b"bearer" else b""),
            _digest(headers.get(b"x-api-key", b"")),
        )
        # Every key is compared, in a time that does not depend on which matches, or where they differ.
        return sum(hmac.compare_digest(digest, key) for digest in given for key in self._keys) > 0


class WayOut(Protocol):
    """Takes an answer to the client."""

    async def send(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """The whole of an answer."""

    def forward(self, message: Message, /) -> Awaitable[None]:
        """An ASGI message of the web framework's."""


class _Messages:
    """The way out as ASGI has it."""

    __slots__ = ("forward",)

    def __init__(self, send: Send) -> None:
        self.forward = send

    async def send(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        await self.forward({"type": "http.response.start", "status": status, "headers": headers})
        await self.forward({"type": "http.response.body", "body": body})


class _Reply:
    """Adds to an answer what every answer says, and remembers whether and how one began."""

    __slots__ = ("_note", "_way_out", "_with_body", "status")

    def __init__(self, way_out: WayOut, note: Note, *, with_body: bool) -> None:
        self._way_out, self._note, self._with_body = way_out, note, with_body
        self.status = 0

    def send(self, answer: Answer) -> Awaitable[None]:
        self.status = answer.status
        headers = [*answer.headers, *said_of(self._note)]
        return self._way_out.send(answer.status, headers, answer.body if self._with_body else b"")

    async def forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *said_of(self._note)]
        elif not self._with_body:
            message = {**message, "body": b""}
        await self._way_out.forward(message)


def problem_answer(error: Exception, note: Note) -> Answer:
    """Any exception as problem+json; what is our fault is logged with the request's id."""
    known = translate(error)
    note.rejection = known.rejection
    if known.status == 500:
        fields = {"request_id": note.request_id, "route": note.route, "model": note.model}
        logger.error("a request failed: %s", known.detail, exc_info=error, extra={"fields": fields})
    body = problem(known, note.request_id)
    headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    headers += [(name.lower().encode(), value.encode()) for name, value in known.headers.items()]
    return Answer(known.status, headers, body)


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers of a request by name; what is given more than once is joined (RFC 9110, section 5.2)."""
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def local_path(scope: Scope) -> str:
    """The path below the root path that a proxy may have left in front."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The request's id as its client gave it, if it can be repeated; else a new one, 32 hexadecimal digits."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.match(given):
        return given.decode()
    return new_request_id()


def new_request_id() -> str:
    """32 hexadecimal digits."""
    # An id, no secret. uuid4() asks the kernel for its bits, which lets another thread have Python's lock.
    return f"{random.getrandbits(128):032x}"


def said_of(note: Note) -> list[tuple[bytes, bytes]]:
    """The headers that every answer to this request has."""
    return [(b"x-request-id", note.request_id.encode()), *said_with(note.model)]


@lru_cache(maxsize=256)
def said_with(model: str | None) -> tuple[Header, ...]:
    """Those of them that answers of one model share."""
    always = (b"x-content-type-options", b"nosniff")
    return (always,) if model is None else (always, (b"x-model", model.encode()))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
