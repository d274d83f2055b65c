"""Requests from the pages of other origins, where the settings list some."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.engine import Engine
from app.errors import BadRequest
from app.middleware import headers_of, problem_answer, request_id_of, said_of
from app.notes import PREFLIGHT, Note


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
        note = Note(request_id_of(headers_of(request_headers.raw)), PREFLIGHT, "OPTIONS")
        if response.status_code != 200:
            told = [header for header in response.raw_headers if not header[0].startswith(b"content-")]
            refused = BadRequest("A page of this origin may not send requests with this method and these headers.")
            refusal = problem_answer(refused, note)
            response = Response(refusal.body, refusal.status)
            response.raw_headers = [*refusal.headers, *told]
        response.raw_headers += said_of(note)
        self._ledger.enter(note, response.status_code, None)
        return response
