"""An in-process client for the app, and the one assertion about errors."""

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine import Engine
from app.service import Service, create_app
from app.settings import Settings

PROBLEM_KEYS = {"type", "title", "status", "detail", "request_id"}


@asynccontextmanager
async def running(bundle: Path, *, shortcut: bool = True, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that serves ``bundle`` and has warmed up."""
    values = {"models": (bundle,), "parallel_runs": 1} | settings
    app = create_app(Settings.model_validate(values), shortcut=shortcut)
    async with app.lifespan():
        await app.engine.warmed_up()
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            yield client


def engine_of(client: httpx.AsyncClient) -> Engine:
    """The engine behind a client: tests reach behind the counter."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    assert isinstance(transport.app, Service)
    return transport.app.engine


def assert_problem(
    response: httpx.Response, status: int, slug: str, *, pointer: str | None = None
) -> dict[str, object]:
    """The one shape of an error; its document is returned."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    errors = document.get("errors", [])
    assert set(document) - {"errors"} == PROBLEM_KEYS
    assert document["status"] == status
    assert document["type"] == f"urn:problem-type:latentserve:{slug}"
    assert document["request_id"] == response.headers["x-request-id"]
    assert isinstance(errors, list)
    assert all(set(error) == {"pointer", "detail"} for error in errors)
    if pointer is not None:
        assert pointer in [error["pointer"] for error in errors]
    return document


def npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def un_npy(response: httpx.Response) -> NDArray[Any]:
    assert response.headers["content-type"] == "application/x-npy"
    array: NDArray[Any] = np.load(io.BytesIO(response.content), allow_pickle=False)
    return array


def picture(image: NDArray[np.uint8], format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def grey(count: int, size: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    """Random pictures (N, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size), np.uint8)


NPY: Mapping[str, str] = {"content-type": "application/x-npy", "accept": "application/x-npy"}
