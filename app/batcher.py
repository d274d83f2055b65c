"""Batching without waiting: a batch is whatever arrived while the previous one ran.

One thread owns one graph. It sleeps while nobody asks, so that an idle server adds no delay, and forms its next batch
itself the moment a run ends, without a detour over the event loop. Requests share batches; a request that is larger
than a batch takes its turn once a round, so that small ones are not stuck behind it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Thread

import numpy as np
from numpy.typing import NDArray

from app.errors import NotReady, QueueTimeout
from model.bundle.errors import ModelFault

Array = NDArray[np.float32]
Run = Callable[[Array], tuple[Array, ...]]


@dataclass(eq=False, slots=True)
class _Job:
    """The rows of one request and how far they got. ``future`` belongs to the event loop, the rest to the thread."""

    rows: Array
    future: "asyncio.Future[tuple[Array, ...]]"
    arrived: float
    on_batch: Callable[[int], None]
    taken: int = 0
    abandoned: bool = False
    parts: list[tuple[Array, ...]] = field(default_factory=list)


@dataclass(slots=True)
class _Slice:
    """Rows of one job in one batch."""

    job: _Job
    rows: Array


class Batcher:
    """Runs a graph for many requests. ``submit`` on the event loop; ``start`` and ``close`` around.

    ``run`` maps rows (B, ...) to a tuple of arrays (B, ...), rows in the same order. A run that raises is repeated
    for every request's rows alone, and a result that is not finite fails its own request only (ModelFault).
    """

    def __init__(
        self,
        name: str,
        run: Run,
        *,
        max_batch: int,
        deadline: float,
        on_wait: Callable[[float], None] = lambda seconds: None,
        on_run: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self._run, self._max_batch, self._deadline = run, max_batch, deadline
        self._on_wait, self._on_run = on_wait, on_run
        self._queue: deque[_Job] = deque()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def depth(self) -> int:
        """Rows that wait for their turn."""
        with self._changed:
            return sum(len(job.rows) - job.taken for job in self._queue if not job.abandoned)

    def start(self) -> None:
        """Begin to serve the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Finish the batch that runs, refuse what waits, and end the thread. Blocks for as long as that batch takes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    async def submit(self, rows: Array, on_batch: Callable[[int], None] = lambda rows: None) -> tuple[Array, ...]:
        """Run ``rows`` (N, ...), N at least 1. A cancelled call is never computed if its turn has not come yet.

        ``on_batch`` hears, before the result is there, of every batch with some of these rows: how many rows it had.
        Raises QueueTimeout when no row was taken within the deadline, ModelFault when its own results are not finite
        or its own rows make the graph fail, NotReady when the batcher is closed.
        """
        loop = asyncio.get_running_loop()
        job = _Job(rows, loop.create_future(), time.monotonic(), on_batch)
        with self._changed:
            if self._closed:
                raise NotReady("The server is shutting down.")
            self._queue.append(job)
            self._changed.notify()
        alarm = loop.call_later(self._deadline, self._expire, job)
        try:
            return await job.future
        finally:
            alarm.cancel()
            job.abandoned = True

    def _expire(self, job: _Job) -> None:
        with self._changed:
            if job.taken or job.future.done():
                return
            job.abandoned = True
        job.future.set_exception(QueueTimeout("The request waited too long for its turn; try again later."))

    def _work(self) -> None:
        while batch := self._next_batch():
            finished = [(piece, result) for piece, result in zip(batch, self._compute(batch), strict=True)]
            self._hand_over(finished)

    def _next_batch(self) -> list[_Slice]:
        """Whatever waits now, up to the largest batch; sleeps while nothing waits; empty when closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._closed or self._queue)
                if self._closed:
                    self._refuse_waiting()
                    return []
                batch: list[_Slice] = []
                room = self._max_batch
                unfinished: list[_Job] = []
                while self._queue and room > 0:
                    job = self._queue.popleft()
                    if job.abandoned:
                        continue
                    if job.taken == 0:
                        self._on_wait(time.monotonic() - job.arrived)
                    rows = job.rows[job.taken : job.taken + room]
                    job.taken += len(rows)
                    room -= len(rows)
                    batch.append(_Slice(job, rows))
                    if job.taken < len(job.rows):
                        unfinished.append(job)
                self._queue.extend(unfinished)
                if batch:
                    return batch

    def _compute(self, batch: list[_Slice]) -> list[tuple[Array, ...] | Exception]:
        """A result or an error for each slice, in order."""
        try:
            # A lone slice, the usual case of a quiet server, is run without a copy.
            rows = batch[0].rows if len(batch) == 1 else np.concatenate([piece.rows for piece in batch])
            began = time.perf_counter()
            outputs = self._run(rows)
            self._on_run(len(rows), time.perf_counter() - began)
            for piece in batch:
                piece.job.on_batch(len(rows))
        except Exception as error:  # whatever a runtime raises must reach the requests, and never end this thread
            if len(batch) == 1:
                return [error]
            return [result for piece in batch for result in self._compute([piece])]
        if len(batch) == 1:
            return [outputs]
        ends = np.cumsum([len(piece.rows) for piece in batch])
        return list(zip(*(np.split(output, ends[:-1]) for output in outputs), strict=True))

    def _hand_over(self, finished: list[tuple[_Slice, tuple[Array, ...] | Exception]]) -> None:
        """Tell the event loop what is complete: one wake-up a batch, however many requests it served."""
        settled: list[tuple[_Job, tuple[Array, ...] | Exception]] = []
        for piece, result in finished:
            job = piece.job
            if isinstance(result, tuple) and not all(np.isfinite(output).all() for output in result):
                result = ModelFault("a result is not finite")
            if isinstance(result, Exception):
                job.abandoned = True
                settled.append((job, result))
                continue
            job.parts.append(result)
            if sum(len(part[0]) for part in job.parts) == len(job.rows):
                settled.append((job, _join(job.parts)))
        self._tell_loop(settled)

    def _refuse_waiting(self) -> None:
        waiting: list[tuple[_Job, tuple[Array, ...] | Exception]] = [
            (job, NotReady("The server is shutting down.")) for job in self._queue
        ]
        self._queue.clear()
        self._tell_loop(waiting)

    def _tell_loop(self, settled: list[tuple[_Job, tuple[Array, ...] | Exception]]) -> None:
        if settled and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_settle, settled)


def _join(parts: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    return parts[0] if len(parts) == 1 else tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _settle(settled: list[tuple[_Job, tuple[Array, ...] | Exception]]) -> None:
    for job, result in settled:
        if job.future.done():  # cancelled or expired meanwhile
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
