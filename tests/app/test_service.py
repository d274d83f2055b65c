"""What is read on the event loop, and FastAPI's part, which is loaded once and only when it is asked for."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import app.site
from app.bodies import read_json
from app.images import LIGHT_BYTES
from tests.app.client import assert_problem, running

Run = Callable[[Coroutine[object, object, None]], None]

JSON = {"content-type": "application/json"}
ROOT = Path(__file__).resolve().parents[2]

SERVE = """
import asyncio, sys
from pathlib import Path
from tests.app.client import grey, npy, running

async def scenario():
    async with running(Path(sys.argv[1])) as client:
        image = {"content": npy(grey(1)), "headers": {"content-type": "application/x-npy"}}
        for method, path, sent in (("GET", "/readyz", {}), ("POST", "/encode", image), ("GET", "/metrics", {})):
            answer = await client.request(method, path, **sent)
            assert answer.status_code == 200, answer.text
        assert "fastapi" not in sys.modules, "FastAPI is loaded before it is needed"
        assert (await client.get("/docs")).status_code == 200
        assert "fastapi" in sys.modules

asyncio.run(scenario())
"""


def test_probes_operations_and_metrics_load_no_fastapi(tiny: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, tiny], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_many_first_requests_load_the_site_once(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    make = app.site.make_site

    def counted(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr("app.site.make_site", counted)

    async def scenario() -> None:
        async with running(tiny) as client:
            answers = await asyncio.gather(*(client.get(path) for path in ("/openapi.json", "/nowhere") * 12))
        assert [answer.status_code for answer in answers] == [200, 404] * 12
        assert len({answer.text for answer in answers[::2]}) == 1

    run(scenario())
    assert len(made) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/nowhere", "/encode/", "/%00"])
def test_an_unknown_path_is_a_problem(run: Run, tiny: Path, method: str, path: str) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            assert_problem(await client.request(method, path), 404, "not-found")

    run(scenario())


SMALL = {"/decode": b'{"latents":[[0]]}', "/traverse": b'{"latent":[0],"dimension":0}'}


@pytest.mark.parametrize("path", SMALL)
@pytest.mark.parametrize(
    "value",
    [b"[" + b",".join([b"[[[[1]]]]"] * 26_000) + b"]", b"[" + b",".join([b"1"] * 131_000) + b"]"],
    ids=["nested", "wide"],
)
def test_hostile_json_is_not_read_on_the_event_loop(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, path: str, value: bytes
) -> None:
    threads: list[int] = []

    def read(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.get_ident())
        return read_json(*arguments, **options)

    monkeypatch.setattr("app.images.read_json", read)
    monkeypatch.setattr("app.walks.read_json", read)
    hostile = SMALL[path].replace(b"[0]", value)
    assert LIGHT_BYTES * 0.9 < len(hostile) <= LIGHT_BYTES

    async def scenario() -> None:
        async with running(tiny) as client:
            assert_problem(await client.post(path, content=SMALL[path], headers=JSON), 422, "invalid")
            assert threads == [threading.get_ident()]  # where nothing is gained by another thread
            assert_problem(await client.post(path, content=hostile, headers=JSON), 422, "invalid")
        assert len(threads) == 2
        assert threads[1] != threading.get_ident()

    run(scenario())
