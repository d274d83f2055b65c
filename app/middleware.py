"""What surrounds every request, in pure ASGI: its id, API keys, errors as problems, headers, metrics; and a short way.

    (Cors ->) Gate -> Shortcut -> (FastAPI: routing, documentation, everything that is not an operation)

The short way leads from the gate straight to an operation: FastAPI's machinery for one request costs more than a
small model's inference. Both ways run the same functions and pass the same gate.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Collection, Mapping, Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.answers import Answer
from app.engine import Engine
from app.errors import (
    PROBLEM_TYPE,
    BadRequest,
    ClientGone,
    NotReady,
    Unauthorized,
    UnsupportedMediaType,
    problem,
    translate,
)
from app.exchange import Operate, perform
from app.metrics import CLIENT_GONE
from app.notes import PREFLIGHT, SCOPE_KEY, UNMATCHED, Note, method_of, note_of
from app.tracing import name_span, redact_span

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")
_OPEN = frozenset({"/", "/livez", "/readyz", "/health", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/docs/assets/"


class Gate:
    """The outermost layer. Nothing leaves it but answers in our form, and every one is counted and carries its id."""

    def __init__(self, app: ASGIApp, engine: Engine, keys: Collection[SecretStr], routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._ledger = engine.ledger
        self._keys = [_digest(key.get_secret_value().encode()) for key in keys]
        self._root_path = engine.settings.root_path
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        method = scope["method"]
        note = Note(request_id_of(headers), method=method_of(method))
        redact_span()
        # HEAD is GET without the body, on every route.
        scope = {**scope, SCOPE_KEY: note, "method": "GET" if method == "HEAD" else method}
        if self._root_path:
            scope["root_path"] = self._root_path
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *said_of(note)]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            self._check(scope, headers, note)
            await self._app(scope, receive, tell)
        except ClientGone:
            status, note.rejection = CLIENT_GONE, "client gone"
        except asyncio.CancelledError:
            # The client is there, so that it is the server that has no more time: its drain is over.
            if status:
                raise
            await send_answer(problem_answer(NotReady("The server is shutting down."), note), tell)
        except Exception as error:
            if status:  # too late for another answer; the server closes the connection
                raise
            await send_answer(problem_answer(error, note), tell)
        finally:
            if note.route == UNMATCHED:
                note.route = self._route_of(scope)
            self._ledger.enter(note, status or CLIENT_GONE, time.perf_counter() - began)

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
        """The template of the route that a request asks for, looked for where the request does not get there."""
        found = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        return getattr(next(found, None), "path", UNMATCHED)

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


class Cors(CORSMiddleware):
    """Starlette's, around the gate so that refusals are readable too. What it answers by itself is in our form.

    Preflights ask whether a page may ask: they carry no API key, and no operation is run for them.
    """

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        super().__init__(
            app,
            allow_origins=engine.settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("Authorization", "X-API-Key", "X-Request-ID", "traceparent", "tracestate"),
            expose_headers=("Retry-After", "X-Model", "X-Request-ID", "X-Seed"),
        )
        self._ledger = engine.ledger

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        note = Note(request_id_of(dict(request_headers.raw)), PREFLIGHT, "OPTIONS")
        if response.status_code != 200:
            told = [header for header in response.raw_headers if not header[0].startswith(b"content-")]
            refused = BadRequest("A page of this origin may not send requests with this method and these headers.")
            refusal = problem_answer(refused, note)
            response = Response(refusal.body, refusal.status)
            response.raw_headers = [*refusal.headers, *told]
        response.raw_headers += said_of(note)
        self._ledger.enter(note, response.status_code, None)
        return response


class Shortcut:
    """Runs operations without the web framework; everything else goes on to it."""

    def __init__(self, app: ASGIApp, engine: Engine, operations: Mapping[tuple[str, str], Operate]) -> None:
        self._app, self._engine, self._operations = app, engine, operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = local_path(scope)
        operate = self._operations.get((scope["method"], path))
        if operate is None:
            await self._app(scope, receive, send)
            return
        note = note_of(scope)
        note.route = path
        name_span(note.method, path)
        await send_answer(await perform(operate, self._engine, scope, receive), send)


async def send_answer(answer: Answer, send: Send) -> None:
    """An answer in two ASGI messages."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})


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


def local_path(scope: Scope) -> str:
    """The path below the root path that a proxy may have left in front."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The request's id as its client gave it, if it can be repeated; else a new one."""
    given = headers.get(b"x-request-id")
    return given.decode() if given is not None and _REQUEST_ID.match(given) else uuid.uuid4().hex


def said_of(note: Note) -> list[tuple[bytes, bytes]]:
    """The headers that every answer to this request has."""
    headers = [(b"x-request-id", note.request_id.encode()), (b"x-content-type-options", b"nosniff")]
    if note.model is not None:
        headers.append((b"x-model", note.model.encode()))
    return headers


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
