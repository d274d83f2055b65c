"""The process around the application: served by uvicorn, drained on SIGTERM."""

import gc
import logging
import math
import os
import time
from types import FrameType

import uvicorn

from app import logs, tracing
from app.addresses import check_address, check_exposure
from app.colleagues import Colleagues
from app.engine import Engine
from app.express import protocol_of
from app.seat import SeatedServer
from app.service import create_app
from app.settings import Settings, unknown_variables
from app.workers import take_seat

logger = logging.getLogger(__name__)


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


def _calm_collector() -> None:
    """Let Python's collector of reference cycles leave alone what was there before the first request, and come seldom.

    Nothing that requests make is part of a cycle, or it is small; but an array in JSON is a thousand lists for a
    moment, each of which counts towards the next round of the collector: with Python's own thresholds that is a sixth
    of the time of such a request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


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
    seat = take_seat(settings) if settings.workers > 1 else None
    service = create_app(settings, colleagues=None if seat is None else Colleagues(seat.folder, seat.index))
    engine = service.engine
    engine.open()
    _calm_collector()
    config = uvicorn.Config(
        service.app,
        host=settings.host,
        port=settings.port,
        loop="auto",  # uvloop where it exists
        http=protocol_of(settings.receive_seconds, engine.ledger.enter, service.gate),
        ws="none",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        proxy_headers=False,  # nothing here depends on who asks, or by which scheme
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )
    server = DrainingServer(config, engine) if seat is None else SeatedServer(config, engine, seat)
    server.run()
