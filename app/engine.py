"""The models of one server, and who may use them when: opening, admission, batching, warm-up, draining."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from app.batcher import ON_THE_SPOT, ON_THE_SPOT_ALONE, Asker, Batcher
from app.errors import ModelNotFound, NotReady, Overloaded, QueueTimeout
from app.graphs import Packed, runs_of
from app.ledger import Ledger
from app.memory import trim
from app.metrics import Metrics
from app.outputs import Outputs, Rows
from app.runners import Runners
from app.settings import Settings
from app.shelf import default_name, open_bundles, runs_at_a_time
from app.tracing import spans
from model.bundle.manifest import Role
from model.bundle.runtime import Bundle

Array = NDArray[np.float32]
Result = TypeVar("Result")
Status = Literal["starting", "ok", "draining", "failed"]
Stage = Literal["read", "latents", "write"]

logger = logging.getLogger(__name__)


_ROWS: dict[Role, str] = {"encoder": "images", "decoder": "latents", "posterior": "draws", "likelihood": "latents"}


class Model:
    """A bundle behind batchers, one a graph."""

    def __init__(self, bundle: Bundle, runners: Runners, settings: Settings, metrics: Metrics) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.label = f"{bundle.name}/{bundle.version}"
        self.batchers: dict[Role, Batcher] = {}
        alone = runs_at_a_time(settings) == 1
        for graph, (run, gather) in runs_of(bundle).items():
            on_wait, on_run = metrics.batch_observers(bundle.name, graph)
            self.batchers[graph] = Batcher(
                run,
                runners,
                max_batch=settings.max_batch,
                deadline=settings.queue_seconds,
                gather=gather,
                on_the_spot=ON_THE_SPOT_ALONE if alone else ON_THE_SPOT,
                alone=alone,
                on_wait=on_wait,
                on_run=on_run,
            )
        self._span = spans(settings)

    async def run(self, graph: Role, rows: Rows | Packed, asker: Asker) -> Outputs:
        """The graph's outputs for these rows, as `graphs.runs_of` says. Raises as Batcher.submit does."""
        with self._span(graph, **{_ROWS[graph]: len(rows)}):
            return await self.batchers[graph].submit(rows, asker)


class Engine:
    """Made of settings alone; ``open`` loads, ``start`` and ``stop`` bracket the life of an event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.ledger = Ledger(metrics, settings)
        self.models: dict[str, Model] = {}
        self.default = ""
        self._receiving = self._working = self._held = self._drawn = 0
        self._warm = self._leaving = self._refusing = False
        self._failure = ""
        self._warming: asyncio.Task[None] | None = None
        self._sharing: asyncio.Task[None] | None = None
        self._runners = Runners(runs_at_a_time(settings))
        self._codec = ThreadPoolExecutor(settings.codec_threads, "codec")
        self._observe = {stage: metrics.codec_observers(stage) for stage in get_args(Stage)}
        self.span = spans(settings)
        metrics.watch(
            "vae_queue_depth",
            "Images or latents waiting for a graph.",
            ("model", "graph"),
            lambda: [
                ((name, graph), batcher.depth)
                for name, model in self.models.items()
                for graph, batcher in model.batchers.items()
            ],
        )
        metrics.watch("vae_requests_receiving", "Requests whose body is awaited.", (), lambda: [((), self._receiving)])
        metrics.watch(
            "vae_requests_in_progress", "Requests received and not answered.", (), lambda: [((), self._working)]
        )

    def open(self) -> None:
        """Load every bundle that the settings name; once. Raises BundleError, one line, for the first that is bad."""
        if self.models:
            return
        models: dict[str, Model] = {}
        for bundle in open_bundles(self.settings):
            models[bundle.name] = Model(bundle, self._runners, self.settings, self.metrics)
            self.metrics.model_loaded(bundle.name, bundle.version, bundle.digest, bundle.provider)
            fields = {"model": f"{bundle.name}/{bundle.version}", "sha256": bundle.digest, "provider": bundle.provider}
            logger.info(
                "loaded %s from %s on %s", fields["model"], bundle.folder, bundle.provider, extra={"fields": fields}
            )
        self.models, self.default = models, default_name(self.settings, models)

    async def start(self) -> None:
        """Open what is not open, start the batchers, and warm up in the background: probes are answered meanwhile."""
        await asyncio.to_thread(self.open)
        self._runners.start()
        for model in self.models.values():
            for batcher in model.batchers.values():
                batcher.start()
        self._warming = asyncio.create_task(self._warm_up())
        self._sharing = asyncio.create_task(self.metrics.share())

    async def _warm_up(self) -> None:
        try:
            for model in self.models.values():
                await asyncio.to_thread(model.bundle.warm_up)
                await asyncio.to_thread(model.bundle.tune, self.settings.max_batch)
            await asyncio.to_thread(trim)
        except Exception:
            logger.exception("warm-up failed")
            self._failure = f"The warm-up of {model.label} failed."
        else:
            self._warm = True
            logger.info("ready: %s", ", ".join(model.label for model in self.models.values()))

    async def warmed_up(self) -> None:
        """Wait until the warm-up has ended, well or not."""
        if self._warming is not None:
            await asyncio.shield(self._warming)

    def leave(self) -> None:
        """Stop being ready, and go on working: load balancers must notice before work is refused."""
        self._leaving = True

    def refuse(self) -> None:
        """Admit nothing from now on; what was admitted is finished."""
        self._leaving = self._refusing = True

    async def stop(self) -> None:
        """Refuse new work, end the threads. What still waits gets NotReady."""
        self.refuse()
        for task in (self._warming, self._sharing):
            if task is not None:
                task.cancel()
        for model in self.models.values():
            for batcher in model.batchers.values():
                batcher.close()
        await asyncio.to_thread(self._runners.close)
        self._codec.shutdown(wait=False, cancel_futures=True)

    def health(self) -> tuple[Status, str]:
        """The state and a sentence about it; only "ok" is ready."""
        if self._leaving:
            return "draining", "The server is shutting down."
        if self._failure:
            return "failed", self._failure
        if not self._warm:
            return "starting", "Models are being loaded and warmed up."
        return "ok", "All models are warm."

    def model(self, name: str | None) -> Model:
        """The model of that name, or the default one. Raises ModelNotFound."""
        try:
            return self.models[name or self.default]
        except KeyError:
            raise ModelNotFound("There is no model of this name; /models lists them.") from None

    def admit(self) -> None:
        """Take a place among the requests whose body is awaited, before anything of a request is read.

        Once the body is there, `begin` takes a place among the requests in work instead. The two are counted apart, so
        that bodies that do not come keep no one from working; but as long as there is no room to work, no body is read.
        Who was admitted calls `dismiss` in the end. Raises NotReady or Overloaded.
        """
        if self._refusing or not self._warm:
            raise NotReady(self.health()[1])
        if self._receiving >= self.settings.max_receiving or self._working >= self.settings.max_waiting:
            raise Overloaded
        self._receiving += 1

    def begin(self) -> None:
        """From receiving to working. Raises Overloaded."""
        if self._working >= self.settings.max_waiting:
            raise Overloaded
        self._receiving -= 1
        self._working += 1

    def admit_whole(self, size: int) -> None:
        """`admit`, `hold` and `begin` for a request whose body of ``size`` bytes is there. Raises as they do, with
        nothing to be given back; else `dismiss` and `hold` are called in the end."""
        self.admit()
        self._receiving -= 1
        self._working += 1
        try:
            self.hold(size)
        except Overloaded:
            self._working -= 1
            self._held -= size
            raise

    def dismiss(self, *, begun: bool) -> None:
        """The request is over, and was in work if it had ``begun``."""
        if begun:
            self._working -= 1
        else:
            self._receiving -= 1

    def hold(self, size: int) -> None:
        """Count ``size`` more bytes of bodies, or fewer. They may be as many as those that can be in work at a time.

        Raises Overloaded beyond that.
        """
        self._held += size
        if size > 0 and self._held > self.settings.max_waiting * self.settings.max_body_bytes:
            raise Overloaded

    def hold_drawn(self, numbers: int) -> None:
        """Count so many more numbers of latents that are drawn on the way to an answer, or fewer. They may be twice as
        many as one request may draw.

        Raises Overloaded beyond that.
        """
        self._drawn += numbers
        if numbers > 0 and self._drawn > 2 * self.settings.max_npy_numbers:
            raise Overloaded

    def did(self, stage: Stage, seconds: float) -> None:
        """Count what was done on the spot."""
        self._observe[stage][1](seconds)

    def do(self, stage: Stage, work: Callable[[], Result]) -> Result:
        """Do on the spot, and time. A codec thread does so too; the event loop only what is short.

        None means that nothing was done, since it is no work for here: it is timed where it is done.
        """
        began = time.perf_counter()
        result = None
        try:
            result = work()
        except Exception:
            self._observe[stage][1](time.perf_counter() - began)
            raise
        if result is not None:
            self._observe[stage][1](time.perf_counter() - began)
        return result

    async def codec(self, stage: Stage, work: Callable[[], Result]) -> Result:
        """Read a body, make latents or write an answer on a codec thread.

        Work whose client has gone before its turn is never done. Raises QueueTimeout, save for an answer: its graphs
        have run, and to throw it away would only add to the load. Raises whatever ``work`` raises.
        """
        queued = time.monotonic()

        def turn() -> Result:
            waited = time.monotonic() - queued
            self._observe[stage][0](waited)
            if stage != "write" and waited > self.settings.queue_seconds:
                raise QueueTimeout("The request waited too long for its turn; try again later.")
            return self.do(stage, work)

        with self.span(stage):
            return await asyncio.get_running_loop().run_in_executor(self._codec, turn)
