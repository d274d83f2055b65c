"""A request for many scores beside others: it ends with its client, and lets small ones pass."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.app.client import engine_of, grey, npy, running
from tests.support.tiny import write_tiny_bundle

Run = Callable[[Coroutine[object, object, None]], None]
HEADERS = {"content-type": "application/x-npy"}


class Steps:
    """The likelihood graph, a run at a time."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        batchers = engine_of(client).models["tiny"].batchers
        for other in batchers.values():  # the one thread is held here: what is small may not go there, however slow
            other._pace = 0.0
        batcher = batchers["likelihood"]
        self._run, self._batcher, self.sizes = batcher._run, batcher, list[int]()
        self._entered, self._go = threading.Semaphore(0), threading.Semaphore(0)
        batcher._run, batcher._on_the_spot = self, 0.0

    def __call__(self, rows: np.ndarray) -> Sequence[np.ndarray]:
        self.sizes.append(len(rows))
        self._entered.release()
        assert self._go.acquire(timeout=30)
        return self._run(rows)

    async def began(self) -> None:
        assert await asyncio.to_thread(self._entered.acquire, timeout=30)

    async def waiting(self, rows: int) -> None:
        while self._batcher.depth != rows:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.001)

    def go_on(self, runs: int = 1) -> None:
        self._go.release(runs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", flow=True, scores=True)


def test_the_scores_of_a_client_that_leaves_are_not_computed_to_the_end(run: Run, folder: Path) -> None:
    async def scenario() -> None:
        async with running(folder, max_batch=8) as client:
            graph, gone, sent = Steps(client), asyncio.Event(), list[object]()
            messages = [{"type": "http.request", "body": npy(grey(4)), "more_body": False}]

            async def receive() -> dict[str, object]:
                if messages:
                    return messages.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: object) -> None:
                sent.append(message)

            scope = {
                "type": "http", "method": "POST", "path": "/score", "query_string": b"k=50",
                "headers": [(b"content-type", b"application/x-npy")], "root_path": "", "scheme": "http",
                "http_version": "1.1",
            }  # fmt: skip
            leaving = asyncio.create_task(client._transport.app(scope, receive, send))  # type: ignore[attr-defined]
            await graph.began()
            gone.set()
            await leaving
            graph.go_on(2)
            answer = await client.post("/score?k=1", content=npy(grey(1)), headers=HEADERS)
            assert answer.status_code == 200
            assert (sent, graph.sizes) == ([], [8, 1])

    run(scenario())


def test_few_scores_do_not_wait_for_many(run: Run, folder: Path) -> None:
    async def scenario() -> None:
        async with running(folder, max_batch=8) as client:
            graph = Steps(client)
            many = asyncio.create_task(client.post("/score?k=16", content=npy(grey(4)), headers=HEADERS))
            await graph.began()
            few = asyncio.create_task(client.post("/score?k=2", content=npy(grey(1)), headers=HEADERS))
            await graph.waiting(4 * 16 - 8 + 2)
            graph.go_on(3)
            assert (await few).status_code == 200
            assert not many.done()
            graph.go_on(9)
            assert (await many).status_code == 200
            assert sum(graph.sizes) == 4 * 16 + 2

    run(scenario())
