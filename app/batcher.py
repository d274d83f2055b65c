"""Batching without waiting: a batch is what arrived at the same time, or while the previous ones ran.

Requests whose data was there in one turn of the event loop are run together. If that is soon done, they are run on the
spot, for the way to another thread and back takes time as well; else they wait for a thread, and whatever arrives until
one is free joins them. An idle server adds no delay. A request that is larger than a batch takes its turn once a round,
so that small ones are not stuck behind it.
"""

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Protocol

import numpy as np

from app.errors import NotReady, QueueTimeout
from app.graphs import Packed
from app.outputs import Gather, Outputs, Rows, Run, gathered
from app.runners import Runners
from model.bundle.errors import ModelFault

ON_THE_SPOT = 0.001
"""Seconds that the event loop may be held up. A thread and back cost a tenth of that where nobody else wants to run;
beside a busy event loop, which has to give up Python's lock for it, several times as much."""

ON_THE_SPOT_ALONE = 0.005
"""The same where this process has one core: a thread would take it from the event loop, and gain nothing."""


class Asker(Protocol):
    """Who submits: hears how its rows fare."""

    def ran(self, rows: int) -> None:
        """A run had some of these rows among its ``rows``."""

    def waits(self) -> None:
        """The result will take a while."""


class Nobody:
    """An `Asker` that does not listen."""

    def ran(self, rows: int) -> None:
        pass

    def waits(self) -> None:
        pass


class Promise(Protocol):
    """Where a result goes, on the event loop: an asyncio.Future, or something cheaper. It is done when it has one, and
    when nobody waits for it any more."""

    def done(self) -> bool: ...

    def set_result(self, result: Outputs, /) -> None: ...

    def set_exception(self, error: Exception, /) -> None: ...


@dataclass(eq=False, slots=True)
class _Job:
    """The rows of one request and how far they got."""

    rows: Rows | Packed
    future: Promise
    arrived: float
    asker: Asker
    taken: int = 0
    missing: int = 0
    alarm: asyncio.TimerHandle | None = None
    parts: dict[int, Outputs] = field(default_factory=dict)


@dataclass(slots=True)
class _Slice:
    """Rows of one job in one batch, from ``start`` to ``stop``. They are put together where the batch runs, and not
    where it is chosen: that is done with the lock held for which the event loop waits."""

    job: _Job
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> Rows:
        return self.job.rows[self.start : self.stop]


Result = Outputs | Exception


class Batcher:
    """Runs one graph for many requests. ``submit`` on the event loop; ``start`` and ``close`` around.

    ``gather`` makes rows (B, ...) of those of several requests, and ``run`` maps them to a tuple of arrays (B, ...),
    rows in the same order; both are called by several threads at a time. A run that raises is repeated for every
    request's rows alone, and a result that is not finite fails its own request only (ModelFault).

    ``on_the_spot`` are the seconds that the event loop may be held up in a turn. ``alone``: there is no other core that
    a thread could use, so that what is too much for one turn is left to the next ones.
    """

    def __init__(
        self,
        run: Run,
        runners: Runners,
        *,
        max_batch: int,
        deadline: float,
        gather: Gather = gathered,
        on_the_spot: float = 0.0,
        alone: bool = False,
        on_wait: Callable[[float], None] = lambda seconds: None,
        on_run: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self._run, self._runners, self._max_batch, self._deadline = run, runners, max_batch, deadline
        self._gather = gather
        self._on_the_spot, self._alone, self._on_wait, self._on_run = on_the_spot, alone, on_wait, on_run
        self._arrived: list[_Job] = []  # in this turn of the event loop
        self._queue: deque[_Job] = deque()  # for the threads; under the runners' lock
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pace = float("inf")  # seconds a row

    @property
    def depth(self) -> int:
        """Rows that wait for their turn."""
        with self._runners.changed:
            return sum(len(job.rows) - job.taken for job in (*self._queue, *self._arrived) if not job.future.done())

    def start(self) -> None:
        """Begin to serve the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Refuse what waits and what comes."""
        with self._runners.changed:
            self._closed = True
            waiting: list[tuple[_Job, Result]] = [(job, _closed()) for job in (*self._queue, *self._arrived)]
            self._queue.clear()
            self._tell_loop(waiting)

    def submit(self, rows: Rows | Packed, asker: Asker = Nobody()) -> "asyncio.Future[Outputs]":  # noqa: B008
        """Run ``rows`` (N, ...), N at least 1. What is cancelled is never computed if its turn has not come yet.

        Raises NotReady when the batcher is closed. The future has QueueTimeout when no row was taken within the
        deadline, ModelFault when its own results are not finite or its own rows make the graph fail, or NotReady.
        """
        if self._loop is None:
            raise _closed()
        future = self._loop.create_future()
        self.add(rows, asker, future)
        return future

    def add(self, rows: Rows | Packed, asker: Asker, promise: Promise) -> None:
        """`submit` with a promise of one's own, whose methods must not raise."""
        if self._closed or self._loop is None:
            raise _closed()
        if not self._arrived:
            self._loop.call_soon(self._end_turn)
        self._arrived.append(_Job(rows, promise, time.monotonic(), asker, missing=len(rows)))

    def _end_turn(self) -> None:
        """Run what has arrived, or have it run."""
        assert self._loop is not None  # noqa: S101 (submit has seen it)
        jobs = [job for job in self._arrived if not job.future.done()]
        self._arrived.clear()
        if self._closed or not jobs:
            return
        room = min(self._max_batch, int(self._on_the_spot / self._pace)) if self._pace else self._max_batch
        ends = list(accumulate(len(job.rows) for job in jobs))
        fitting = bisect_right(ends, room)
        # What is already waiting goes first. (That is looked at without the lock: only this thread adds to the queue.)
        if not self._queue and fitting and (fitting == len(jobs) or self._alone):
            if fitting < len(jobs):  # in the next turn, when the event loop has seen to everything else
                self._arrived += jobs[fitting:]
                self._loop.call_soon(self._end_turn)
            now = time.monotonic()
            self._settle(self._results([self._slice(job, room, now) for job in jobs[:fitting]]))
            return
        for job in jobs:
            job.alarm = self._loop.call_later(self._deadline, self._expire, job)
            job.asker.waits()
        with self._runners.changed:
            self._queue.extend(jobs)
            # A thread a batch, and those that are busy take what is left when they are done.
            for _ in range(-(-ends[-1] // self._max_batch)):
                self._runners.offer(self)

    def _expire(self, job: _Job) -> None:
        with self._runners.changed:
            if job.taken or job.future.done():
                return
        job.future.set_exception(QueueTimeout("The request waited too long for its turn; try again later."))

    # For the runners

    def has_more(self) -> bool:
        return bool(self._queue)

    def take(self) -> Callable[[], None] | None:
        """Whatever waits now, up to the largest batch."""
        batch: list[_Slice] = []
        room, now = self._max_batch, time.monotonic()
        unfinished: list[_Job] = []
        while self._queue and room > 0:
            job = self._queue.popleft()
            if job.future.done():
                continue
            piece = self._slice(job, room, now)
            room -= len(piece)
            batch.append(piece)
            if job.taken < len(job.rows):
                unfinished.append(job)
        self._queue.extend(unfinished)
        return partial(self._run_on_thread, batch) if batch else None

    def _slice(self, job: _Job, room: int, now: float) -> _Slice:
        if job.taken == 0:
            self._on_wait(now - job.arrived)
        piece = _Slice(job, job.taken, min(job.taken + room, len(job.rows)))
        job.taken = piece.stop
        return piece

    def _run_on_thread(self, batch: list[_Slice]) -> None:
        """One wake-up of the event loop a batch, however many requests it served."""
        finished = self._results(batch)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, finished)

    def _results(self, batch: list[_Slice]) -> list[tuple[_Slice, Result]]:
        """A result or an error for each slice, whatever happens: no request is lost, and no thread ends."""
        try:
            return self._compute(batch)
        except Exception as error:  # not the graph's, which is told apart request by request: memory, say
            return [(piece, error) for piece in batch]

    def _compute(self, batch: list[_Slice]) -> list[tuple[_Slice, Result]]:
        began = time.perf_counter()
        try:
            rows = self._gather([piece.rows for piece in batch])
            outputs = Outputs.whole(self._run(rows))
        except Exception as error:  # whatever a runtime raises must reach the requests, and never end a thread
            if len(batch) == 1:
                return [(batch[0], error)]
            return [result for piece in batch for result in self._compute([piece])]
        seconds = time.perf_counter() - began
        if any(len(output) != len(rows) for output in outputs):
            raise ModelFault("a graph gave another number of rows than it got")
        # The fastest of late: what was slower was held up by something else, and would say little of the next run.
        self._pace = min(1.05 * self._pace, seconds / len(rows))
        self._on_run(len(rows), seconds)
        if len(batch) > 1:
            finite = all(np.isfinite(output).all() for output in outputs)
            ends = list(accumulate(map(len, batch)))
            parts = [outputs.part(end - len(piece), end) for piece, end in zip(batch, ends, strict=True)]
            if not finite:  # what is not must have no part in what is made for all
                parts = [Outputs.whole(part) for part in parts]
        else:
            finite, parts = False, [outputs]
        results: list[tuple[_Slice, Result]] = []
        for piece, part in zip(batch, parts, strict=True):
            piece.job.asker.ran(len(rows))
            sound = finite or all(np.isfinite(output).all() for output in part)
            results.append((piece, part if sound else ModelFault("a result is not finite")))
        return results

    # On the event loop again

    def _settle(self, finished: list[tuple[_Slice, Result]]) -> None:
        for piece, result in finished:
            job = piece.job
            if isinstance(result, Outputs) and len(piece) < len(job.rows):
                job.parts[piece.start] = result
                job.missing -= len(piece)
                if job.missing:
                    continue
                result = _join(job.parts)
            _tell(job, result)

    def _tell_loop(self, results: list[tuple[_Job, Result]]) -> None:
        if results and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_tell_all, results)


def _closed() -> NotReady:
    return NotReady("The server is shutting down.")


def _join(parts: dict[int, Outputs]) -> Outputs:
    """The parts by the row at which they begin, in the order of the rows."""
    return Outputs.whole(
        np.concatenate(column) for column in zip(*(parts[start] for start in sorted(parts)), strict=True)
    )


def _tell_all(results: list[tuple[_Job, Result]]) -> None:
    for job, result in results:
        _tell(job, result)


def _tell(job: _Job, result: Result) -> None:
    if job.alarm is not None:
        job.alarm.cancel()
    if job.future.done():  # cancelled or expired meanwhile
        return
    if isinstance(result, Exception):
        job.future.set_exception(result)
    else:
        job.future.set_result(result)
