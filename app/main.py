"""The application and the process around it: built from settings, served by uvicorn, drained on SIGTERM."""

import logging
import math
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app import logs, tracing
from app.addresses import check_address, check_exposure
from app.documentation import TITLE, Documented, add_docs_page
from app.engine import Engine
from app.errors import Invalid
from app.metrics import Metrics
from app.middleware import Cors, Gate, Shortcut, problem_answer
from app.notes import note_of
from app.protocol import bounded
from app.routes import Sent, make_router, shortcuts
from app.settings import Settings, unknown_variables

logger = logging.getLogger(__name__)


def create_app(settings: Settings, *, shortcut: bool = True) -> FastAPI:
    """The application; nothing is loaded before its lifespan begins. ``app.state.engine`` is its Engine.

    ``shortcut=False`` sends operations through FastAPI's own routing, which does the same at a higher price. Raises
    OSError if the file of API keys cannot be read.
    """
    engine = Engine(settings, Metrics())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.openapi()  # now, for it takes long enough to hold up requests
        await engine.start()
        try:
            yield
        finally:
            await engine.stop()

    # FastAPI's max_body_size is not used, nor are its form limits: it stands outside of every middleware and answers
    # in plain text, without the request's id and uncounted; and the short way does not pass it. The limits are in
    # `exchange` (bytes, time) and `bodies` (parts), on both ways.
    app = Documented(
        title=TITLE,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        telemetry=tracing.config(settings),
    )
    app.state.engine = engine
    router = make_router(engine)
    app.include_router(router)
    add_docs_page(app)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    # The one that is added last stands outermost.
    if shortcut:
        app.add_middleware(Shortcut, engine=engine, operations=shortcuts())
    app.add_middleware(Gate, engine=engine, keys=settings.all_api_keys(), routes=router.routes)
    if settings.cors_origins:
        app.add_middleware(Cors, engine=engine)
    return app


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the web framework refuses by itself (404, 405, ...) in our form."""
    return Sent(problem_answer(error, note_of(request.scope)))


async def _on_invalid(request: Request, error: Exception) -> Response:
    return Sent(problem_answer(Invalid("The request is not what the route takes."), note_of(request.scope)))


class DrainingServer(uvicorn.Server):
    """uvicorn's server with one more step before its shutdown.

    The first signal makes the server not ready and lets it work on for ``drain_delay`` seconds, in which load
    balancers notice; then work is refused, what was admitted is finished within ``drain_seconds``, and the process
    ends with status 0. A second signal ends it at once, with the status of a process that the signal killed.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine
        self._leave_at: float | None = None
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._leave_at is not None:  # whoever asks twice does not want to wait for anything
            os._exit(128 + sig)
        self._engine.leave()
        self._leave_at = time.monotonic() + self._engine.settings.drain_delay

    async def on_tick(self, counter: int) -> bool:
        if self._leave_at is not None and not self._told:
            self._told = True
            logger.info("draining: what runs is finished, and then the server ends; a second signal ends it at once")
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            self._engine.refuse()
            self.should_exit = True
        return await super().on_tick(counter)


def serve(settings: Settings) -> None:
    """Serve until a signal comes.

    Raises OSError, BundleError or ConfigurationError, one line, before the port is opened: if it cannot be, if a bundle
    is unfit, or if what the settings want is missing or unwise.
    """
    logs.configure(settings)
    for name, _ in unknown_variables(os.environ):
        logger.warning("the environment variable %s is no setting and is ignored", name)
    tracing.prepare(settings, os.environ)
    check_address(settings.host, settings.port)
    check_exposure(settings)
    app = create_app(settings)
    engine: Engine = app.state.engine
    engine.open()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="auto",  # uvloop where it exists
        http=bounded(settings.receive_seconds, engine.ledger.enter),
        ws="none",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )
    DrainingServer(config, engine).run()
