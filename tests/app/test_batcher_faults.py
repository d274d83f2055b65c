"""Several threads at one request, and faults beside the graph: a batch may fail, but no thread ends of it."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.batcher import Batcher, Nobody
from app.graphs import Packed
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


class Awkward(Packed):
    """Rows that see whether the lock is held where they are put together, and may fail there."""

    def __init__(self, batcher: Batcher, values: Array, *, broken: bool) -> None:
        super().__init__(values)
        self._lock, self._broken, self.locked = batcher._runners.changed, broken, list[bool]()

    def __getitem__(self, which: slice) -> Array:
        self.locked.append(self._lock._is_owned())  # type: ignore[attr-defined]
        if self._broken:
            raise MemoryError
        return super().__getitem__(which)


@pytest.mark.parametrize("on_the_spot", [0.0, 10.0])
def test_rows_are_put_together_without_the_lock_and_fail_alone(run: Run, on_the_spot: float) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, on_the_spot=on_the_spot) as batcher:
            await warm(batcher, graph)
            good, bad = Awkward(batcher, rows(1, 2), broken=False), Awkward(batcher, rows(3), broken=True)
            found = [batcher.submit(each) for each in (good, bad)]
            doubled, _ = await found[0]
            with pytest.raises(MemoryError):
                await found[1]
            assert (await batcher.submit(rows(4)))[0] == 8  # the thread has outlived it
        assert doubled[:, 0].tolist() == [2, 4]
        assert not any(good.locked + bad.locked)

    run(scenario())
