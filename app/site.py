"""FastAPI's part of the server: the documentation, and the routing of everything that is not an operation or a probe.

Importing this imports FastAPI, which takes half a second and some 25 MB: `service` does so when it is first needed.
"""

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from app.documentation import TITLE, Documented, add_docs_page
from app.engine import Engine
from app.errors import Invalid
from app.middleware import problem_answer
from app.notes import note_of
from app.routes import Sent, make_router


def make_site(engine: Engine) -> Documented:
    """All routes of the server, for behind the gate."""
    # FastAPI's max_body_size is not used, nor are its form limits: it answers in plain text, and operations do not come
    # this way. The limits are in `exchange` (bytes, time) and `bodies` (parts).
    site = Documented(
        title=TITLE,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # `tracing.traced` is
    )
    site.include_router(make_router(engine))
    add_docs_page(site)
    site.add_middleware(Carrier)
    site.add_exception_handler(HTTPException, _on_http_exception)
    site.add_exception_handler(RequestValidationError, _on_invalid)
    site.openapi()  # now, for it takes long enough to hold up requests
    return site


class Carrier:
    """Takes what a route raises to the gate, which has an answer to everything; Starlette would answer by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            note_of(scope).error = error


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the web framework refuses by itself (404, 405, ...) in our form."""
    return Sent(problem_answer(error, note_of(request.scope)))


async def _on_invalid(request: Request, error: Exception) -> Response:
    return Sent(problem_answer(Invalid("The request is not what the route takes."), note_of(request.scope)))
