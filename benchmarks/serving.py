"""What a request costs beside the inference it asks for: `make bench`.

Three ways to the latent of one picture, taken in turns in one process, so that a noisy machine disturbs all of them:

- graph: ONNX Runtime alone, on an array that is ready. The limit.
- server: the application as it is served, spoken to in ASGI, without a network.
- FastAPI: the same, with every operation led through FastAPI's own routing.

Printed are ratios of the median times of a request; what a single figure says of another machine is little.
"""

import argparse
import asyncio
import io
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI

from app.main import create_app
from app.settings import PRETRAINED, Settings
from model.bundle.pixels import to_network

ROUNDS = 9
Work = Callable[[], Awaitable[object]]


def npy(array: np.ndarray) -> bytes:
    """What numpy.save writes."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def request(app: FastAPI, path: str, body: bytes) -> Work:
    """One POST of an .npy body, answered in .npy, as a server would hand it to the application."""
    headers = [
        (b"content-type", b"application/x-npy"),
        (b"accept", b"application/x-npy"),
        (b"content-length", str(len(body)).encode()),
    ]

    async def send_request() -> bytes:
        waiting = [{"type": "http.request", "body": body, "more_body": False}]
        answered = asyncio.Event()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not waiting:
                await answered.wait()
                return {"type": "http.disconnect"}
            return waiting.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        await app(scope, receive, send)
        answered.set()
        if sent[0]["status"] != 200:
            raise RuntimeError(f"{path} answered {sent[0]['status']}: {sent[1]['body']!r}")
        return bytes(sent[1]["body"])

    return send_request


async def seconds(work: Work, count: int, concurrency: int) -> float:
    """Seconds a request, with so many under way at a time."""
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            await work()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return (time.perf_counter() - began) / count


async def compare(bundle_folder: Path, count: int) -> None:
    """Measure and print."""
    settings = Settings.model_validate({"models": (bundle_folder,), "threads": 1})
    apps = {"server": create_app(settings), "FastAPI": create_app(settings, shortcut=False)}
    async with AsyncExitStack() as stack:
        for app in apps.values():
            await stack.enter_async_context(app.router.lifespan_context(app))
            await app.state.engine.warmed_up()
        bundle = next(iter(apps["server"].state.engine.models.values())).bundle
        images = bundle.golden.images[:1]
        ready = to_network(images)

        async def graph() -> object:
            return bundle.encode(ready)

        ways: dict[str, Work] = {"graph": graph}
        ways |= {name: request(app, "/encode", npy(images)) for name, app in apps.items()}
        print(f"POST /encode of one picture, {bundle.name}/{bundle.version}, median of {ROUNDS} rounds of {count}")
        for concurrency in (1, 32):
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, work in ways.items():
                    times[name].append(await seconds(work, count, concurrency))
            middle = {name: statistics.median(found) for name, found in times.items()}
            print(f"{concurrency:3} at a time:", end="")
            print(f"  server / graph {middle['server'] / middle['graph']:.2f}", end="")
            print(f"  FastAPI / server {middle['FastAPI'] / middle['server']:.2f}", end="")
            print("   (" + ", ".join(f"{name} {middle[name] * 1e6:.0f} µs" for name in ways) + ")")


def main() -> None:
    """Parse the options and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PRETRAINED, help="bundle folder; the one that ships")
    parser.add_argument("--count", type=int, default=500, help="requests a round")
    options = parser.parse_args()
    asyncio.run(compare(options.model, options.count))


if __name__ == "__main__":
    main()
