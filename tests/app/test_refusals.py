"""What is refused, with which status, and always in the one shape: the tables of the interface, line by line."""

import asyncio
import base64
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from app.engine import Engine
from model.bundle.manifest import Role
from tests.app.client import NPY, assert_problem, engine_of, grey, npy, picture, running, un_npy

Run = Callable[[Coroutine[object, object, None]], None]
JSON = {"content-type": "application/json"}
PNG = {"content-type": "image/png"}


def hold(engine: Engine, graph: Role) -> tuple[threading.Semaphore, threading.Event, list[int]]:
    """Hold a graph in the middle of its runs: a semaphore for each that began, the gate, and the rows of each."""
    batcher = engine.models["tiny"].batchers[graph]
    run, entered, gate, sizes = batcher._run, threading.Semaphore(0), threading.Event(), []

    def held(rows: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        sizes.append(len(rows))
        entered.release()
        assert gate.wait(30)
        return run(rows)

    batcher._run = held
    batcher._on_the_spot = 0.0  # on a thread, and not on the event loop that is to open the gate
    return entered, gate, sizes


async def wait(entered: threading.Semaphore) -> None:
    assert await asyncio.to_thread(entered.acquire, timeout=30)


CASES: list[tuple[str, str, dict[str, Any], int, str, str | None]] = [
    # 400
    ("POST", "/encode", {"content": b"{", "headers": JSON}, 400, "malformed-json", None),
    ("POST", "/encode", {"content": b'{"images": ["\xff"]}', "headers": JSON}, 400, "malformed-json", None),
    ("POST", "/decode", {"content": b"[" * 99, "headers": JSON}, 400, "malformed-json", None),
    (
        "POST", "/encode", {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}},
        400, "malformed-multipart", None,
    ),
    # 404, 405
    ("GET", "/nowhere", {}, 404, "not-found", None),
    ("GET", "/docs/assets/../../etc/passwd", {}, 404, "not-found", None),
    ("GET", "/models/other", {}, 404, "unknown-model", None),
    ("GET", "/models/other/card", {}, 404, "unknown-model", None),
    ("GET", "/sample?model=other", {}, 404, "unknown-model", None),
    ("GET", "/encode", {}, 405, "method-not-allowed", None),
    ("POST", "/sample", {}, 405, "method-not-allowed", None),
    ("POST", "/docs/assets/swagger-ui.css", {}, 405, "method-not-allowed", None),
    ("DELETE", "/models", {}, 405, "method-not-allowed", None),
    # 406
    ("GET", "/sample", {"headers": {"accept": "text/html"}}, 406, "not-acceptable", None),
    ("GET", "/sample?format=gif", {}, 406, "not-acceptable", None),
    ("GET", "/models", {"headers": {"accept": "image/png"}}, 406, "not-acceptable", None),
    ("POST", "/encode", {"json": {"images": []}, "headers": {"accept": "image/png"}}, 406, "not-acceptable", None),
    # 415
    ("POST", "/encode", {"content": b"x"}, 415, "unsupported-media-type", None),
    ("POST", "/decode", {"content": b"x", "headers": PNG}, 415, "unsupported-media-type", None),
    ("POST", "/interpolate", {"content": b"x", "headers": PNG}, 415, "unsupported-media-type", None),
    ("POST", "/traverse", {"content": b"x", "headers": NPY}, 415, "unsupported-media-type", None),
    (
        "POST", "/decode", {"json": {"latents": [[0, 0]]}, "headers": {"content-encoding": "gzip"}},
        415, "unsupported-media-type", None,
    ),
    # 422: queries
    ("GET", "/sample?n=257", {}, 422, "invalid", "?n"),
    ("GET", "/sample?n=0", {}, 422, "invalid", "?n"),
    ("GET", "/sample?n=x", {}, 422, "invalid", "?n"),
    ("GET", "/sample?seed=2147483648", {}, 422, "invalid", "?seed"),
    ("GET", "/sample?seed=-1", {}, 422, "invalid", "?seed"),
    ("GET", "/sample?temperature=nan", {}, 422, "invalid", "?temperature"),
    ("GET", "/sample?temperature=-1", {}, 422, "invalid", "?temperature"),
    ("GET", "/sample?unknown=1", {}, 422, "invalid", "?unknown"),
    ("GET", "/sample?n=1&n=2", {}, 422, "invalid", None),
    ("GET", "/sample?n=%ff", {}, 422, "invalid", None),
    ("GET", "/sample?dtype=float32", {}, 422, "invalid", "?dtype"),
    ("GET", "/models?x=1", {}, 422, "invalid", None),
    ("POST", "/encode?samples=257", {"json": {"images": [[[0]]]}}, 422, "invalid", "?samples"),
    ("POST", "/encode?output=mean", {"json": {"images": [[[0]]]}}, 422, "invalid", "?output"),
    ("POST", "/encode?output=samples", {"content": npy(grey(1)), "headers": NPY}, 422, "invalid", "?output"),
    ("POST", "/encode?seed=1", {"json": {"images": [[[0]]]}}, 422, "invalid", "?seed"),
    ("POST", "/reconstruct?seed=1", {"json": {"images": [[[0]]]}}, 422, "invalid", "?seed"),
    # 422: images
    ("POST", "/encode", {"json": []}, 422, "invalid", ""),
    ("POST", "/encode", {"json": {}}, 422, "invalid", "/images"),
    ("POST", "/encode", {"json": {"images": []}}, 422, "invalid", "/images"),
    ("POST", "/encode", {"json": {"images": [[[0]]], "more": 1}}, 422, "invalid", "/more"),
    ("POST", "/encode", {"json": {"images": [[[0]]] * 257}}, 422, "invalid", "/images"),
    ("POST", "/encode", {"json": {"images": ["not base64!"]}}, 422, "invalid", "/images/0"),
    ("POST", "/encode", {"json": {"images": [[[0]], "aGVsbG8="]}}, 422, "invalid", "/images/1"),
    ("POST", "/encode", {"json": {"images": [[0, 1]]}}, 422, "invalid", "/images/0"),
    ("POST", "/encode", {"json": {"images": [[[0], [0, 1]]]}}, 422, "invalid", "/images/0"),
    ("POST", "/encode", {"json": {"images": [[[2.0]]]}}, 422, "invalid", "/images/0"),
    ("POST", "/encode", {"json": {"images": [[[True]]]}}, 422, "invalid", "/images/0"),
    ("POST", "/encode", {"content": b"not a picture", "headers": PNG}, 422, "invalid", ""),
    ("POST", "/encode", {"content": picture(grey(1)[0])[:-50], "headers": PNG}, 422, "invalid", ""),
    ("POST", "/encode", {"content": b"", "headers": PNG}, 422, "invalid", ""),
    ("POST", "/encode?fit=error", {"content": picture(grey(1, 9)[0]), "headers": PNG}, 422, "invalid", ""),
    ("POST", "/encode", {"files": [("images", ("a", b"x"))]}, 422, "invalid", "/images/0"),
    ("POST", "/encode", {"files": [("other", ("a", b"x"))]}, 422, "invalid", ""),
    ("POST", "/encode", {"content": npy(np.full((1, 8, 8), np.nan)), "headers": NPY}, 422, "invalid", ""),
    ("POST", "/encode", {"content": npy(np.full((1, 8, 8), 1.5)), "headers": NPY}, 422, "invalid", ""),
    ("POST", "/encode", {"content": npy(np.zeros((1, 8, 8), np.int64)), "headers": NPY}, 422, "invalid", ""),
    ("POST", "/encode", {"content": npy(np.zeros((8, 8))), "headers": NPY}, 422, "invalid", ""),
    ("POST", "/encode", {"content": npy(np.zeros((0, 8, 8))), "headers": NPY}, 422, "invalid", ""),
    ("POST", "/encode", {"content": npy(np.zeros((257, 1, 1))), "headers": NPY}, 422, "invalid", ""),
    # 422: latents
    ("POST", "/decode", {"json": {"latents": [[0, 0, 0]]}}, 422, "invalid", "/latents"),
    ("POST", "/decode", {"json": {"latents": [[0, None]]}}, 422, "invalid", "/latents"),
    ("POST", "/decode", {"json": {"latents": [[0, 1e300]]}}, 422, "invalid", "/latents"),
    ("POST", "/decode", {"json": {"latents": [[0, 0]] * 257}}, 422, "invalid", "/latents"),
    ("POST", "/decode", {"content": npy(np.full((1, 2), np.inf)), "headers": NPY}, 422, "invalid", ""),
    ("POST", "/decode", {"content": npy(np.zeros(2)), "headers": NPY}, 422, "invalid", ""),
    # 422: walks
    ("POST", "/interpolate", {"json": {"points": [{"latent": [0, 0]}]}}, 422, "invalid", "/points"),
    ("POST", "/interpolate", {"json": {"points": [{"latent": [0, 0]}, {}]}}, 422, "invalid", "/points/1"),
    (
        "POST", "/interpolate", {"json": {"points": [{"latent": [0, 0]}, {"latent": [0]}]}},
        422, "invalid", "/points/1/latent",
    ),
    (
        "POST", "/interpolate", {"json": {"points": [{"latent": [0, 0]}] * 3, "steps": 129}},
        422, "invalid", "/steps",
    ),
    (
        "POST", "/interpolate", {"json": {"points": [{"latent": [3e38, 3e38]}, {"latent": [3e38, -3e38]}]}},
        422, "invalid", "/points",
    ),
    ("POST", "/interpolate?steps=3", {"json": {"points": [{"latent": [0, 0]}] * 3}}, 422, "invalid", "?steps"),
    ("POST", "/interpolate?steps=257", {"content": npy(grey(2)), "headers": NPY}, 422, "invalid", "?steps"),
    ("POST", "/interpolate", {"content": npy(grey(1)), "headers": NPY}, 422, "invalid", None),
    ("POST", "/traverse", {"json": {"dimension": 2}}, 422, "invalid", "/dimension"),
    ("POST", "/traverse", {"json": {"dimension": -1}}, 422, "invalid", "/dimension"),
    ("POST", "/traverse", {"json": {"dimension": 0, "steps": 257}}, 422, "invalid", "/steps"),
    ("POST", "/traverse", {"json": {"dimension": 0, "latent": [1]}}, 422, "invalid", "/latent"),
    ("POST", "/traverse", {"json": {"dimension": True}}, 422, "invalid", "/dimension"),
]  # fmt: skip


@pytest.mark.parametrize("shortcut", [True, False])
def test_refusals(run: Run, tiny: Path, shortcut: bool) -> None:
    async def scenario() -> None:
        async with running(tiny, shortcut=shortcut) as client:
            for method, url, sent, status, slug, pointer in CASES:
                response = await client.request(method, url, **sent)
                assert_problem(response, status, slug, pointer=pointer)
                if status == 405:
                    allowed = response.headers["allow"].split(", ")
                    assert allowed
                    assert len(set(allowed)) == len(allowed)
                    assert ("GET" in allowed) == ("HEAD" in allowed)
            assert (await client.get("/sample?n=1")).status_code == 200

    run(scenario())


def test_what_is_not_known_comes_with_what_is(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            query = await client.get("/sample?number=4")
            (wrong,) = query.json()["errors"]
            assert wrong["pointer"] == "?number"
            assert wrong["detail"].startswith("Is not known here; known are model, ")
            assert " n, " in wrong["detail"]
            body = await client.post("/decode", json={"latents": [[0, 0]], "latent": [[0, 0]]})
            assert body.json()["errors"] == [{"pointer": "/latent", "detail": "Is not known here; known are latents."}]

    run(scenario())


def test_sizes(run: Run, tiny: Path) -> None:
    async def chunks(count: int) -> Any:
        for _ in range(count):
            yield b"x" * 1000

    async def scenario() -> None:
        async with running(tiny, max_body_bytes=4000, max_pixels=100) as client:
            assert_problem(await client.post("/encode", content=b"x" * 4001, headers=PNG), 413, "too-large")
            assert_problem(await client.post("/encode", content=chunks(5), headers=PNG), 413, "too-large")
            assert_problem(await client.post("/encode", content=b"x" * 4000, headers=PNG), 422, "invalid")
            large = picture(grey(1, 11)[0])
            assert_problem(await client.post("/encode", content=large, headers=PNG), 413, "too-large")
            text = base64.b64encode(large).decode()
            response = await client.post("/encode", json={"images": [text]})
            assert_problem(response, 413, "too-large", pointer="/images/0")

    run(scenario())


def test_pixels_of_all_pictures_are_bounded(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, max_total_pixels=200) as client:
            files = [("images", ("a.png", picture(image))) for image in grey(4)]
            assert (await client.post("/encode", files=files[:3])).status_code == 200
            assert_problem(await client.post("/encode", files=files), 413, "too-large", pointer="/images/3")

    run(scenario())


def test_json_answers_are_bounded(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, max_json_numbers=100) as client:
            assert_problem(await client.get("/sample?n=2&format=json&dtype=float32"), 422, "invalid")
            assert (await client.get("/sample?n=2&format=npy&dtype=float32")).status_code == 200
        async with running(tiny, max_npy_numbers=100) as client:
            assert_problem(await client.get("/sample?n=2&format=npy"), 422, "invalid")
            many = npy(grey(1)), dict(NPY)
            response = await client.post("/encode?samples=100&output=samples", content=many[0], headers=many[1])
            assert_problem(response, 422, "invalid")

    run(scenario())


def test_one_picture_is_not_taken_for_a_list_of_narrow_ones(run: Run, tiny: Path, color: Path) -> None:
    async def scenario() -> None:
        for bundle, shape in ((tiny, (8, 8, 1)), (color, (8, 12, 3))):
            async with running(bundle) as client:
                array = np.zeros(shape, np.uint8)
                document = assert_problem(
                    await client.post("/encode", content=npy(array), headers=dict(NPY)), 422, "invalid"
                )
                assert f"[1,{','.join(map(str, shape))}]" in str(document["detail"])
                assert (await client.post("/encode", content=npy(array[None]), headers=dict(NPY))).status_code == 200

    run(scenario())


def test_api_keys(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, api_keys=("one-key", "two-key")) as client:
            for path in ("/livez", "/readyz", "/health", "/docs", "/openapi.json"):
                assert (await client.get(path)).status_code == 200
            for path in ("/sample", "/models", "/metrics", "/nowhere"):
                response = await client.get(path)
                assert_problem(response, 401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
            for headers in (
                {"authorization": "Bearer two-key"},
                {"x-api-key": "one-key"},
                {"authorization": "Bearer of another server", "x-api-key": "one-key"},
                {"authorization": "Bearer two-key", "x-api-key": "wrong"},
            ):
                assert (await client.get("/sample?n=1", headers=headers)).status_code == 200
            for headers in (
                {"authorization": "Bearer wrong"},
                {"authorization": "Basic one-key"},
                {"x-api-key": ""},
                {"x-api-key": "one-ke"},
                {"authorization": "Bearer wrong", "x-api-key": "wrong"},
            ):
                assert_problem(await client.get("/sample", headers=headers), 401, "unauthorized")

    run(scenario())


def test_non_finite_results_fail_alone(run: Run, overflowing: Path) -> None:
    async def scenario() -> None:
        async with running(overflowing) as client:
            bad = client.post("/decode", json={"latents": [[1000.0, 1000.0]]})
            good = [client.post("/decode", json={"latents": [[0.5, 0.5]]}) for _ in range(4)]
            failed, *rest = await asyncio.gather(bad, *good)
            assert_problem(failed, 500, "model-failure")
            assert failed.headers["x-model"] == "tiny/1"
            assert all(response.status_code == 200 for response in rest)

    run(scenario())


def test_a_divergence_that_is_no_number_is_not_null(run: Run, tiny: Path) -> None:
    def wide(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        return np.zeros((len(images), 2), np.float32), np.full((len(images), 2), 800, np.float32)

    async def scenario() -> None:
        async with running(tiny) as client:
            engine_of(client).models["tiny"].batchers["encoder"]._run = wide
            body, headers = npy(grey(1)), {"content-type": NPY["content-type"]}
            assert_problem(await client.post("/encode", content=body, headers=headers), 500, "model-failure")
            response = await client.post("/encode?format=npy&output=log_variance", content=body, headers=headers)
            assert un_npy(response).tolist() == [[800, 800]]

    run(scenario())


def test_unexpected_faults_reveal_nothing(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr("model.bundle.prior.prior_latents", broken)

    async def scenario() -> None:
        for shortcut in (True, False):
            async with running(tiny, shortcut=shortcut) as client:
                response = await client.get("/sample")
                assert_problem(response, 500, "internal-error")
                assert "secret" not in response.text
                assert response.headers["x-request-id"] == vars(caplog.records[-1])["fields"]["request_id"]

    run(scenario())


def test_what_the_framework_raises_has_its_status(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise HTTPException(413, "secret")

    monkeypatch.setattr("model.bundle.prior.prior_latents", refusing)

    async def scenario() -> None:
        for shortcut in (True, False):
            async with running(tiny, shortcut=shortcut) as client:
                response = await client.get("/sample")
                assert_problem(response, 413, "too-large")
                assert "secret" not in response.text

    run(scenario())


def test_overload_is_said_at_once_and_before_reading(run: Run, tiny: Path) -> None:
    async def never_read() -> Any:
        raise AssertionError("the body was read")
        yield b""

    async def scenario() -> None:
        async with running(tiny, max_waiting=2) as client:
            entered, gate, _ = hold(engine_of(client), "decoder")
            admitted = [asyncio.create_task(client.get("/sample?n=1")) for _ in range(2)]
            await wait(entered)
            headers = {"content-type": "application/x-npy"}
            response = await client.post("/encode", content=never_read(), headers=headers)
            assert_problem(response, 503, "overloaded")
            assert response.headers["retry-after"] == "1"
            assert (await client.get("/readyz")).status_code == 200
            gate.set()
            assert [task.status_code for task in await asyncio.gather(*admitted)] == [200, 200]
            assert (await client.get("/sample?n=1")).status_code == 200
            assert 'vae_rejections_total{reason="overloaded"} 1.0' in (await client.get("/metrics")).text

    run(scenario())


def test_overload_after_reading_is_said_before_decoding(run: Run, tiny: Path) -> None:
    arrived = asyncio.Event()

    async def late() -> Any:
        yield b""
        await arrived.wait()
        yield picture(grey(1)[0])

    async def scenario() -> None:
        async with running(tiny, max_waiting=1) as client:
            entered, gate, _ = hold(engine_of(client), "decoder")
            second = asyncio.create_task(client.post("/encode", content=late(), headers=PNG))
            while "vae_requests_receiving 1.0" not in (await client.get("/metrics")).text:
                assert not second.done()
            first = asyncio.create_task(client.get("/sample?n=1"))
            await wait(entered)
            arrived.set()
            assert_problem(await second, 503, "overloaded")
            text = (await client.get("/metrics")).text
            assert 'vae_codec_seconds_count{stage="read"} 0.0' in text
            assert "vae_requests_receiving 0.0" in text
            assert "vae_requests_in_progress 1.0" in text
            gate.set()
            assert (await first).status_code == 200

    run(scenario())


def test_bodies_that_do_not_come_keep_no_one_from_working(run: Run, tiny: Path) -> None:
    async def silent() -> Any:
        yield b""
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with running(tiny, max_waiting=1, max_receiving=4) as client:
            idle = [asyncio.create_task(client.post("/encode", content=silent(), headers=PNG)) for _ in range(3)]
            while "vae_requests_receiving 3.0" not in (await client.get("/metrics")).text:
                assert not any(task.done() for task in idle)
            assert (await client.get("/sample?n=1")).status_code == 200
            idle.append(asyncio.create_task(client.post("/encode", content=silent(), headers=PNG)))
            while "vae_requests_receiving 4.0" not in (await client.get("/metrics")).text:
                assert not idle[-1].done()
            assert_problem(await client.get("/sample?n=1"), 503, "overloaded")
            for task in idle:
                task.cancel()
            await asyncio.gather(*idle, return_exceptions=True)
            assert (await client.get("/sample?n=1")).status_code == 200

    run(scenario())


def test_bodies_that_do_not_end_hold_a_bounded_memory(run: Run, tiny: Path) -> None:
    async def endless() -> Any:
        yield b"x" * 600
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with running(tiny, max_waiting=1, max_body_bytes=1000) as client:
            first = asyncio.create_task(client.post("/encode", content=endless(), headers=PNG))
            while engine_of(client)._held == 0:
                await asyncio.sleep(0)
                assert not first.done()
            assert_problem(await client.post("/encode", content=endless(), headers=PNG), 503, "overloaded")
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert engine_of(client)._held == 0
            assert (await client.post("/encode", content=picture(grey(1)[0]), headers=PNG)).status_code == 200

    run(scenario())


def test_deadline_in_the_queue(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, queue_seconds=0.05) as client:
            entered, gate, sizes = hold(engine_of(client), "decoder")
            first = asyncio.create_task(client.get("/sample?n=1"))
            await wait(entered)
            assert_problem(await client.get("/sample?n=2"), 504, "queue-timeout")
            gate.set()
            assert (await first).status_code == 200
            assert sizes == [1]

    run(scenario())


def test_a_client_that_goes_away_is_not_computed(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            entered, gate, sizes = hold(engine_of(client), "decoder")
            first = asyncio.create_task(client.get("/sample?n=1"))
            await wait(entered)
            app = client._transport.app  # type: ignore[attr-defined]
            gone, started = asyncio.Event(), asyncio.Event()
            messages = [{"type": "http.request", "body": b"", "more_body": False}]
            sent: list[object] = []

            async def receive() -> dict[str, object]:
                if messages:
                    return messages.pop()
                started.set()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: object) -> None:
                sent.append(message)

            scope = {
                "type": "http", "method": "GET", "path": "/sample", "query_string": b"n=2", "headers": [],
                "root_path": "", "scheme": "http", "http_version": "1.1",
            }  # fmt: skip
            leaving = asyncio.create_task(app(scope, receive, send))
            await started.wait()
            gone.set()
            await leaving
            gate.set()
            assert (await first).status_code == 200
            assert (sent, sizes) == ([], [1])
            text = (await client.get("/metrics")).text
            assert 'vae_requests_total{method="GET",route="/sample",status="499"} 1.0' in text
            assert "vae_requests_in_progress 0.0" in text

    run(scenario())


def test_a_body_that_never_comes(run: Run, tiny: Path) -> None:
    async def slow() -> Any:
        yield b"x"
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with running(tiny, receive_seconds=0.05) as client:
            assert_problem(await client.post("/encode", content=slow(), headers=PNG), 408, "body-timeout")

    run(scenario())


def test_not_ready_before_the_warm_up_and_while_draining(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            engine = engine_of(client)
            engine._warm = False
            response = await client.get("/readyz")
            assert (response.status_code, response.json()["status"]) == (503, "starting")
            assert_problem(await client.get("/sample"), 503, "not-ready")
            assert (await client.get("/livez")).status_code == 200
            engine._warm = True
            entered, gate, _ = hold(engine, "decoder")
            first = asyncio.create_task(client.get("/sample?n=1"))
            await wait(entered)
            engine.leave()
            assert (await client.get("/readyz")).json()["status"] == "draining"
            second = asyncio.create_task(client.get("/sample?n=1"))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(second), 0.01)
            engine.refuse()
            response = await client.get("/sample?n=1")
            assert_problem(response, 503, "not-ready")
            assert response.headers["retry-after"] == "1"
            gate.set()
            assert [(await task).status_code for task in (first, second)] == [200, 200]

    run(scenario())


def test_a_failed_warm_up_is_never_ready(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("model.bundle.runtime.Bundle.warm_up", broken)

    async def scenario() -> None:
        async with running(tiny) as client:
            response: httpx.Response = await client.get("/health")
            assert (response.status_code, response.json()["status"]) == (503, "failed")
            assert "secret" not in response.text

    run(scenario())
