"""The laws of batching: rows never mix, mates do not matter, the cancelled are not computed."""

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import NotReady, QueueTimeout
from app.outputs import Array, Outputs
from model.bundle.errors import ModelFault
from tests.app.batching import Graph, Run, batching, queued, rows, warm


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(1, 7),
    st.sampled_from([0.0, 10.0]),
    st.integers(1, 3),
    st.booleans(),
)
def test_rows_never_mix(sizes: list[int], max_batch: int, on_the_spot: float, threads: int, alone: bool) -> None:
    async def scenario() -> None:
        graph = Graph()
        options = {"max_batch": max_batch, "on_the_spot": on_the_spot, "threads": threads, "alone": alone}
        async with batching(graph, **options) as batcher:
            await warm(batcher, graph)
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


# On the spot


def test_what_arrives_in_one_turn_is_one_batch_on_the_event_loop(run: Run) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, on_the_spot=10.0) as batcher:
            await warm(batcher, graph)
            results = await asyncio.gather(*(batcher.submit(rows(*values)) for values in ((1,), (2, 3), (4,))))
        assert graph.batches == [[1, 2, 3, 4]]
        assert graph.threads == [threading.get_ident()]
        assert [doubled[:, 0].tolist() for doubled, _ in results] == [[2], [4, 6], [8]]
        assert [next_[:, 0].tolist() for _, next_ in results] == [[2], [3, 4], [5]]

    run(scenario())


@pytest.mark.parametrize("on_the_spot", [0.0, 10.0])
def test_a_first_run_and_a_slow_one_are_for_a_thread(run: Run, on_the_spot: float) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, on_the_spot=on_the_spot) as batcher:
            await batcher.submit(rows(1))
            await batcher.submit(rows(2))
        assert [thread == threading.get_ident() for thread in graph.threads] == [False, on_the_spot > 0]

    run(scenario())


@pytest.mark.parametrize("values", [((1, 2, 3, 4, 5),), ((1, 2, 3), (4, 5))])
def test_more_than_a_batch_is_for_the_threads(run: Run, values: tuple[tuple[float, ...], ...]) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, on_the_spot=10.0) as batcher:
            await warm(batcher, graph)
            results = await asyncio.gather(*(batcher.submit(rows(*each)) for each in values))
        assert graph.batches == [[1, 2, 3, 4], [5]]
        assert threading.get_ident() not in graph.threads
        assert [doubled[:, 0].tolist() for doubled, _ in results] == [[2 * value for value in each] for each in values]

    run(scenario())


@pytest.mark.parametrize(("poison", "error"), [(-1.0, RuntimeError), (-2.0, ModelFault)])
def test_a_poisoned_item_fails_alone_on_the_spot(run: Run, poison: float, error: type[Exception]) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, on_the_spot=10.0) as batcher:
            await warm(batcher, graph)
            futures = [batcher.submit(rows(value)) for value in (2.0, poison, 3.0)]
            good, bad, good_too = await asyncio.gather(*futures, return_exceptions=True)
        assert graph.batches[0] == [2, poison, 3]
        assert set(graph.threads) == {threading.get_ident()}
        assert isinstance(bad, error)
        assert isinstance(good, tuple)
        assert isinstance(good_too, tuple)
        assert (good[0][0, 0], good_too[0][0, 0]) == (4, 6)

    run(scenario())


def test_what_is_cancelled_in_its_turn_is_not_run(run: Run) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, on_the_spot=10.0) as batcher:
            await warm(batcher, graph)
            cancelled, kept = batcher.submit(rows(1)), batcher.submit(rows(2))
            cancelled.cancel()
            assert (await kept)[0] == 4
            batcher.submit(rows(3)).cancel()
            await queued(batcher, 0)
        assert graph.batches == [[2]]

    run(scenario())


def test_alone_what_is_too_much_for_a_turn_is_left_to_the_next(run: Run) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, on_the_spot=10.0, alone=True) as batcher:
            await warm(batcher, graph)
            loop, told = asyncio.get_running_loop(), list[int]()
            futures = [batcher.submit(rows(value)) for value in (1, 2, 3, 4, 5, 6)]
            loop.call_soon(lambda: told.append(len(graph.batches)))  # it has a turn of its own between the two
            large = batcher.submit(rows(7, 8, 9, 10, 11))
            for future, value in zip(futures, (1, 2, 3, 4, 5, 6), strict=True):
                assert (await future)[0] == 2 * value
            assert (await large)[0][:, 0].tolist() == [14, 16, 18, 20, 22]
        assert told == [1]
        assert graph.batches == [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10], [11]]
        # No turn has room for the last: it goes to a thread, and small ones would not have to wait for it.
        here = threading.get_ident()
        assert [thread == here for thread in graph.threads] == [True, True, False, False]

    run(scenario())


@pytest.mark.parametrize("count", [1, 9])
def test_closing_in_the_same_turn_refuses(run: Run, count: int) -> None:
    async def scenario() -> None:
        graph = Graph()
        async with batching(graph, on_the_spot=10.0) as batcher:
            await warm(batcher, graph)
            future = batcher.submit(rows(*range(count)))
            batcher.close()
            with pytest.raises(NotReady):
                await future
        assert count > 1 or graph.batches == []

    run(scenario())


def test_outputs_go_with_their_last_reader() -> None:
    whole = Outputs.whole([np.zeros((4, 2), np.float32)])
    part = whole.part(1, 3)
    assert part.of(np.square).shape == (2, 2)
    assert whole.of(np.square) is not None
    arrays = weakref.ref(whole[0])
    gc.disable()
    try:
        del whole, part
        assert arrays() is None
    finally:
        gc.enable()


def test_what_is_made_of_outputs_is_made_once() -> None:
    calls = []

    def double(values: Array) -> Array:
        calls.append(len(values))
        return 2 * values

    whole = Outputs.whole([np.arange(8, dtype=np.float32).reshape(4, 2)])
    parts = [whole.part(0, 1), whole.part(1, 4)]
    assert [part.of(double).tolist() for part in parts] == [[[0, 2]], [[4, 6], [8, 10], [12, 14]]]
    assert calls == [4]
