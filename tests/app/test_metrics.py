"""Metrics: fine enough for small models, and few label values whatever clients ask for."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from app.colleagues import Colleagues
from app.metrics import Metrics
from tests.app.client import NPY, engine_of, grey, npy, picture, running

Run = Callable[[Coroutine[object, object, None]], None]


def test_buckets_tell_less_than_a_millisecond_apart() -> None:
    metrics = Metrics()
    metrics.request("/encode", "POST", 200, 0.0002)
    waited, ran = metrics.batch_observers("tiny", "encoder")
    waited(0.0001)
    ran(1, 0.0001)
    for observe in metrics.codec_observers("read"):
        observe(0.0001)
    families = {family.name: family for family in text_string_to_metric_families(metrics.exposition().decode())}
    timed = [name for name, family in families.items() if name.endswith("_seconds") and family.type == "histogram"]
    assert len(timed) == 5
    for name in timed:
        bounds = {sample.labels["le"] for sample in families[name].samples if "le" in sample.labels}
        assert sum(float(bound) < 0.001 for bound in bounds) >= 3, name


def test_unknown_routes_and_methods_are_one_label_each(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            for number in range(20):
                await client.get(f"/nowhere/{number}")
                await client.request(f"ODD{number}", "/sample")
                await client.get(f"/models/{number}")
                await client.get(f"/sample?model=m{number}")
            for path in ("/docs", "/openapi.json", "/docs/assets/swagger-ui.css"):
                await client.get(path)
            text = (await client.get("/metrics")).text
            for route in ("/docs", "/openapi.json", "/docs/assets/{path}"):
                assert f'vae_requests_total{{method="GET",route="{route}",status="200"}} 1.0' in text
            assert 'vae_requests_total{method="GET",route="unmatched",status="404"} 20.0' in text
            assert 'vae_requests_total{method="GET",route="/models/{name}",status="404"} 20.0' in text
            assert 'vae_requests_total{method="GET",route="/sample",status="404"} 20.0' in text
            assert set(re.findall(r'method="(\w+)"', text)) == {"GET", "OTHER"}

    run(scenario())


def test_refusals_name_their_route_and_their_reason(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        limits: dict[str, Any] = {"max_body_bytes": 100, "max_pixels": 63, "queue_seconds": 0.05, "max_batch": 1}
        async with running(tiny, api_keys=("key",), **limits) as client:
            key = {"x-api-key": "key"}
            await client.get("/sample")
            await client.get("/models/tiny")
            await client.get("/nowhere")
            await client.post("/decode", content=b"{}", headers={**key, "content-encoding": "gzip"})
            await client.post("/encode", content=b"x" * 101, headers={**key, "content-type": "image/png"})
            await client.post("/encode", content=picture(grey(1)[0]), headers={**key, "content-type": "image/png"})
            decoder = engine_of(client).models["tiny"].batchers["decoder"]
            compute = decoder._run

            def slowly(rows: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
                time.sleep(0.3)
                return compute(rows)

            decoder._run, decoder._on_the_spot = slowly, 0.0
            await asyncio.gather(*(client.get("/sample?n=1", headers=key) for _ in range(3)))
            text = (await client.get("/metrics", headers=key)).text
            for line in (
                'vae_requests_total{method="GET",route="/sample",status="401"} 1.0',
                'vae_requests_total{method="GET",route="/models/{name}",status="401"} 1.0',
                'vae_requests_total{method="GET",route="unmatched",status="401"} 1.0',
                'vae_requests_total{method="POST",route="/decode",status="415"} 1.0',
                'vae_rejections_total{reason="unauthorized"} 3.0',
                'vae_rejections_total{reason="too large"} 2.0',
                'vae_rejections_total{reason="waited too long"} 2.0',
            ):
                assert line in text, line

    run(scenario())


def test_a_model_is_known_by_its_digest(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            digest = engine_of(client).models["tiny"].bundle.digest
            assert re.fullmatch("[0-9a-f]{64}", digest)
            text = (await client.get("/metrics")).text
            assert f'vae_model_info{{model="tiny",provider="cpu",sha256="{digest}",version="1"}} 1.0' in text
            assert (await client.get("/models/tiny")).json()["sha256"] == digest

    run(scenario())


def test_every_stage_is_timed(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            await client.post("/encode?samples=1", content=npy(grey(2)), headers=dict(NPY))
            await client.get("/sample?n=2")
            text = (await client.get("/metrics")).text
            counted = dict(re.findall(r"^(vae_\w+_count\{[^}]*\}) ([\d.]+)$", text, re.MULTILINE))
            for name in (
                'vae_request_duration_seconds_count{route="/encode"}',
                'vae_inference_seconds_count{graph="encoder",model="tiny"}',
                'vae_inference_seconds_count{graph="decoder",model="tiny"}',
                'vae_queue_wait_seconds_count{graph="encoder",model="tiny"}',
                'vae_codec_seconds_count{stage="read"}',
                'vae_codec_seconds_count{stage="write"}',
                'vae_codec_wait_seconds_count{stage="write"}',
            ):
                assert float(counted[name]) >= 1, name
            assert float(counted['vae_codec_seconds_count{stage="read"}']) == 1  # what was read on the spot
            await client.post("/encode", content=picture(grey(1)[0], "JPEG"), headers={"content-type": "image/jpeg"})
            text = (await client.get("/metrics")).text
            assert 'vae_codec_seconds_count{stage="read"} 2.0' in text  # what was left to a thread, once as well
            assert "vae_request_duration_seconds_sum" in text

    run(scenario())


def test_whichever_process_is_asked_tells_of_all(tmp_path: Path) -> None:
    first, second = (Metrics(Colleagues(tmp_path, index)) for index in (0, 1))
    for metrics in (first, second, second):
        metrics.request("/encode", "POST", 200, 0.002)
        metrics.model_loaded("tiny", "1", "abc", "cpu")
    for metrics in (first, second):
        metrics.watch("vae_queue_depth", "Waiting.", ("model",), lambda: [(("tiny",), 2)])
        metrics.watch("vae_requests_in_progress", "In work.", (), lambda: [((), 1)])

    async def tell(metrics: Metrics) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(metrics.share(), 0.01)

    for metrics in (first, second):
        asyncio.run(tell(metrics))
    told = [sorted(metrics.exposition().decode().splitlines()) for metrics in (first, second)]
    for lines in told:
        assert 'vae_requests_total{method="POST",route="/encode",status="200"} 3.0' in lines
        assert 'vae_request_duration_seconds_bucket{le="0.0025",route="/encode"} 3.0' in lines
        assert 'vae_request_duration_seconds_sum{route="/encode"} 0.006' in lines
        assert 'vae_queue_depth{model="tiny"} 4.0' in lines
        assert "vae_requests_in_progress 2.0" in lines
        assert 'vae_model_info{model="tiny",provider="cpu",sha256="abc",version="1"} 1.0' in lines

    # One that takes another's place goes on from its numbers, and has nothing in work of what that one had.
    third = Metrics(Colleagues(tmp_path, 1))
    third.watch("vae_requests_in_progress", "In work.", (), lambda: [((), 0)])
    third.request("/encode", "POST", 200, 0.002)
    lines = third.exposition().decode().splitlines()
    assert 'vae_requests_total{method="POST",route="/encode",status="200"} 4.0' in lines
    assert "vae_requests_in_progress 1.0" in lines
    assert [line for line in lines if line.startswith("process_resident_memory_bytes ")]


def test_what_was_observed_is_counted_whether_it_was_sorted_in_or_not() -> None:
    metrics = Metrics()
    for _ in range(1000):
        metrics.request("/encode", "POST", 200, 0.002)
    assert b'vae_request_duration_seconds_count{route="/encode"} 1000.0' in metrics.exposition()
    assert b'vae_request_duration_seconds_bucket{le="0.0025",route="/encode"} 1000.0' in metrics.exposition()
