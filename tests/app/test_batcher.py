"""The laws of batching: rows never mix, mates do not matter, the cancelled are not computed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.batcher import Batcher
from app.errors import NotReady, QueueTimeout
from app.runners import Runners
from model.bundle.errors import ModelFault

Array = NDArray[np.float32]
Run = Callable[[Coroutine[object, object, None]], None]


class Graph:
    """A graph that remembers its batches, and that a test can hold in the middle of one."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, rows: Array) -> tuple[Array, ...]:
        self.batches.append(rows[:, 0].tolist())
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
    runners = Runners(options.pop("threads", 1))
    batcher = Batcher(graph, runners, **({"max_batch": 4, "deadline": 30.0, "on_the_spot": 0.0} | options))
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


async def queued(batcher: Batcher, depth: int) -> None:
    """Let the turn of the event loop end."""
    await asyncio.sleep(0)
    assert batcher.depth == depth


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 7))
def test_rows_never_mix(sizes: list[int], max_batch: int) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, max_batch=max_batch) as batcher:
            requests = [rows(*(1000.0 * i + j for j in range(size))) for i, size in enumerate(sizes)]
            results = await asyncio.gather(*(batcher.submit(request) for request in requests))
        for request, (doubled, next_) in zip(requests, results, strict=True):
            np.testing.assert_array_equal(doubled, request * 2)
            np.testing.assert_array_equal(next_, request + 1)
        assert max(map(len, graph.batches)) <= max_batch
        assert sum(map(len, graph.batches)) == sum(sizes)

    asyncio.run(scenario())


def test_a_batch_is_what_arrived_meanwhile(run: Run) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph) as batcher:
            graph.gate.clear()
            first = asyncio.ensure_future(batcher.submit(rows(1)))
            await graph.held()
            others = [asyncio.ensure_future(batcher.submit(rows(*values))) for values in ((2, 3), (4,), (5,))]
            await queued(batcher, 4)
            graph.gate.set()
            await asyncio.gather(first, *others)
        assert graph.batches == [[1], [2, 3, 4, 5]]

    run(scenario())


def test_a_large_request_is_split_and_lets_small_ones_pass(run: Run) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph) as batcher:
            graph.gate.clear()
            large = asyncio.ensure_future(batcher.submit(rows(*range(1, 11))))
            await graph.held()
            small = asyncio.ensure_future(batcher.submit(rows(100)))
            await queued(batcher, 7)
            graph.gate.set()
            doubled, _ = await large
            await small
        assert doubled[:, 0].tolist() == [2.0 * value for value in range(1, 11)]
        assert graph.batches[0] == [1, 2, 3, 4]
        assert 100 in graph.batches[1] + graph.batches[2]
        assert graph.batches[-1] != [100]

    run(scenario())


def test_cancelled_requests_are_never_computed(run: Run) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph) as batcher:
            graph.gate.clear()
            first = asyncio.ensure_future(batcher.submit(rows(1)))
            await graph.held()
            cancelled = asyncio.ensure_future(batcher.submit(rows(2)))
            kept = asyncio.ensure_future(batcher.submit(rows(3)))
            await queued(batcher, 2)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert batcher.depth == 1
            graph.gate.set()
            await asyncio.gather(first, kept)
        assert graph.batches == [[1], [3]]

    run(scenario())


def test_deadline_in_the_queue(run: Run) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, deadline=0.05) as batcher:
            graph.gate.clear()
            first = asyncio.ensure_future(batcher.submit(rows(1)))
            await graph.held()
            with pytest.raises(QueueTimeout):
                await batcher.submit(rows(2))
            graph.gate.set()
            assert (await first)[0] == 2  # its own time runs only while it waits
        assert graph.batches == [[1]]

    run(scenario())


@pytest.mark.parametrize(("poison", "error"), [(-1.0, RuntimeError), (-2.0, ModelFault)])
def test_a_poisoned_item_fails_alone(run: Run, poison: float, error: type[Exception]) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph) as batcher:
            graph.gate.clear()
            first = asyncio.ensure_future(batcher.submit(rows(1)))
            await graph.held()
            tasks = [asyncio.ensure_future(batcher.submit(rows(value))) for value in (2.0, poison, 3.0)]
            await queued(batcher, 3)
            graph.gate.set()
            await first
            good, bad, good_too = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, error)
        assert isinstance(good, tuple)
        assert isinstance(good_too, tuple)
        assert (good[0][0, 0], good_too[0][0, 0]) == (4, 6)

    run(scenario())


def test_closing_finishes_the_running_and_refuses_the_waiting(run: Run) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph) as batcher:
            graph.gate.clear()
            running = asyncio.ensure_future(batcher.submit(rows(1)))
            await graph.held()
            waiting = asyncio.ensure_future(batcher.submit(rows(2)))
            await queued(batcher, 1)
            batcher.close()
            graph.gate.set()
            assert (await running)[0] == 2
            with pytest.raises(NotReady):
                await waiting
            with pytest.raises(NotReady):
                await batcher.submit(rows(3))

    run(scenario())
