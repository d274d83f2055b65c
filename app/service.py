"""The application: an engine behind a gate, with FastAPI's part loaded when it is first asked for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from app import tracing
from app.colleagues import Colleagues
from app.engine import Engine
from app.metrics import Metrics
from app.middleware import Gate
from app.operations import OPERATIONS
from app.settings import Settings

if TYPE_CHECKING:
    from app.documentation import Documented


class Service:
    """An ASGI application, whose ``app`` is the same with one call less; nothing is loaded before its lifespan."""

    def __init__(self, settings: Settings, *, shortcut: bool = True, colleagues: Colleagues | None = None) -> None:
        self.engine = Engine(settings, Metrics(colleagues))
        operations = OPERATIONS if shortcut else {}
        gate = Gate(self._behind, self.engine, keys=settings.all_api_keys(), operations=operations)
        self.gate = gate if not (settings.cors_origins or settings.telemetry) else None
        """The gate, if nothing is around it."""
        app: ASGIApp = gate
        if settings.cors_origins:
            from app.cors import Cors

            app = Cors(app, self.engine)
        self.app = tracing.traced(app, settings) if settings.telemetry else app
        self._site: Documented | None = None
        self._loading: asyncio.Future[Documented] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Around the time in which requests come."""
        await self.engine.start()
        try:
            yield
        finally:
            await self.engine.stop()

    def site(self) -> "Documented":
        """FastAPI's part. The first call loads it."""
        if self._site is None:
            from app.site import make_site

            self._site = make_site(self.engine)
        return self._site

    async def _behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the gate lets through."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._site is None:
            if self._loading is None or self._loading.done():
                self._loading = asyncio.get_running_loop().run_in_executor(None, self.site)
            await asyncio.shield(self._loading)  # all who come meanwhile wait for the same
        await self.site()(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The ASGI protocol of a lifespan."""
        await receive()
        stage = "startup"
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                stage = "shutdown"
                await receive()
        except Exception as error:
            await send({"type": f"lifespan.{stage}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})


def create_app(settings: Settings, *, shortcut: bool = True, colleagues: Colleagues | None = None) -> Service:
    """The application of these settings, alone or beside others that share its port.

    ``shortcut=False`` sends operations through FastAPI's own routing, which does the same at a higher price. Raises
    OSError if the file of API keys cannot be read.
    """
    return Service(settings, shortcut=shortcut, colleagues=colleagues)
