"""Several threads at one request, and faults beside the graph: a batch may fail, but no thread ends of it."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.batcher import Nobody
from tests.app.batching import Array, Graph, Run, batching, rows, warm


@pytest.mark.parametrize("first", [0, 1])
def test_two_threads_share_a_large_request(run: Run, first: int) -> None:
    gates = {1.0: threading.Event(), 5.0: threading.Event(), 100.0: threading.Event()}
    gates[100].set()
    graph = Graph()

    def held(batch: Array) -> tuple[Array, ...]:
        result = graph(batch)
        assert gates[float(batch[0, 0])].wait(30)
        return result

    async def scenario() -> None:
        async with batching(graph, run=held, threads=2) as batcher:
            large = batcher.submit(rows(*range(1, 9)))
            await graph.held()
            await graph.held()
            assert sorted(graph.batches) == [[1, 2, 3, 4], [5, 6, 7, 8]]
            gates[(1.0, 5.0)[first]].set()
            await batcher.submit(rows(100))  # by the thread that is free now, whose part has been handed in
            assert not large.done()
            gates[(5.0, 1.0)[first]].set()
            doubled, next_ = await large
        assert doubled[:, 0].tolist() == [2.0 * value for value in range(1, 9)]
        assert next_[:, 0].tolist() == [value + 1.0 for value in range(1, 9)]

    run(scenario())


def fails(*_: object) -> None:
    raise ZeroDivisionError


class Deaf(Nobody):
    """An asker that fails when it is told anything."""

    def ran(self, rows: int) -> None:
        fails()


Fault = tuple[Any, Callable[..., None], Nobody]


@pytest.mark.parametrize("on_the_spot", [0.0, 10.0])
@pytest.mark.parametrize("counts", [(1,), (1, 2), (9,)])
@pytest.mark.parametrize(
    "fault",
    [
        (None, lambda *_: None, Nobody()),
        ((rows(1), rows()), lambda *_: None, Nobody()),
        ((rows(*range(9)),), lambda *_: None, Nobody()),
        ((1.0, 2.0), lambda *_: None, Nobody()),
        (..., fails, Nobody()),
        (..., lambda *_: None, Deaf()),
    ],
    ids=["None", "too few rows", "too many rows", "no arrays", "on_run", "ran"],
)
def test_a_fault_beside_the_graph_fails_its_batch_and_no_more(
    run: Run, on_the_spot: float, counts: tuple[int, ...], fault: Fault
) -> None:
    given, on_run, asker = fault
    graph = Graph()
    sound = True

    def ill(batch: Array) -> tuple[Array, ...]:
        result = graph(batch)
        return result if sound or given is ... else given

    def ran(count: int, seconds: float) -> None:
        if not sound:
            on_run(count, seconds)

    async def scenario() -> None:
        nonlocal sound
        async with batching(graph, run=ill, on_run=ran, on_the_spot=on_the_spot) as batcher, asyncio.timeout(10):
            await warm(batcher, graph)
            sound = False
            futures = [batcher.submit(rows(*range(count)), asker) for count in counts]
            failed = await asyncio.gather(*futures, return_exceptions=True)
            sound = True
            assert (await batcher.submit(rows(3)))[0] == 6
        assert all(isinstance(result, Exception) for result in failed)

    run(scenario())
