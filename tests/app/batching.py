"""A batcher at work, and a graph that tells what it ran."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.batcher import Batcher
from app.runners import Runners

Array = NDArray[np.float32]
Run = Callable[[Coroutine[object, object, None]], None]


class Graph:
    """A graph that remembers its batches, and that a test can hold in the middle of one."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.threads: list[int] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, rows: Array) -> tuple[Array, ...]:
        self.batches.append(rows[:, 0].tolist())
        self.threads.append(threading.get_ident())
        self.entered.release()
        assert self.gate.wait(30)
        if (rows == -1).any():
            raise RuntimeError("poison")
        return rows * 2, np.where(rows == -2, np.nan, rows + 1)

    async def held(self) -> None:
        """Wait until a batch runs."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


@asynccontextmanager
async def batching(graph: Graph, **options: Any) -> AsyncIterator[Batcher]:
    """A batcher at work; unless ``on_the_spot`` is given, everything goes to the threads."""
    runners = Runners(options.pop("threads", 1))
    run = options.pop("run", graph)
    batcher = Batcher(run, runners, **({"max_batch": 4, "deadline": 30.0, "on_the_spot": 0.0} | options))
    runners.start()
    batcher.start()
    try:
        yield batcher
    finally:
        graph.gate.set()
        batcher.close()
        await asyncio.to_thread(runners.close)


def rows(*values: float) -> Array:
    return np.array(values, np.float32)[:, None]


async def warm(batcher: Batcher, graph: Graph) -> None:
    """One run, by which the batcher knows how long they take. It is forgotten."""
    assert (await batcher.submit(rows(0)))[0] == 0
    graph.batches.clear()
    graph.threads.clear()
    assert graph.entered.acquire(blocking=False)


async def queued(batcher: Batcher, depth: int) -> None:
    """Let the turn of the event loop end."""
    await asyncio.sleep(0)
    assert batcher.depth == depth
