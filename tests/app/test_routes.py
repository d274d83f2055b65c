"""Every route, every body type, every answer type, on both ways to the operations."""

import asyncio
import base64
import io
import zipfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from model.bundle.latents import gaussian_kl, interpolate, posterior_samples, prior_latents, traverse
from model.bundle.pixels import from_network, to_network, to_uint8
from model.bundle.runtime import Bundle
from model.bundle.store import open_bundle
from tests.app.client import NPY, grey, npy, opened, picture, running, un_npy

Run = Callable[[Coroutine[object, object, None]], None]


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    return open_bundle(tiny)


def image_bodies(images: NDArray[Any]) -> dict[str, dict[str, Any]]:
    """The same pictures in every form that holds several."""
    files = [("images", (f"{i}.png", picture(image), "image/png")) for i, image in enumerate(images)]
    texts = [base64.b64encode(picture(image)).decode() for image in images]
    numbers = (images / np.float32(255)).tolist()
    mixed = [texts[0], numbers[1], [[[value] for value in row] for row in numbers[2]]]
    return {
        "base64": {"json": {"images": texts}},
        "lists": {"json": {"images": numbers}},
        "mixed": {"json": {"images": mixed}},
        "multipart": {"files": files},
        "npy": {"content": npy(images), "headers": {"content-type": "application/x-npy"}},
        "npy4": {"content": npy(images[..., None]), "headers": {"content-type": "application/x-npy"}},
        "float": {"content": npy(images / np.float32(255)), "headers": {"content-type": "application/x-npy"}},
    }


@pytest.mark.parametrize("shortcut", [True, False])
def test_encode_of_every_body(run: Run, tiny: Path, bundle: Bundle, shortcut: bool) -> None:
    images = grey(3)
    mean, log_variance, _ = bundle.encode(to_network(images[..., None]))

    async def scenario() -> None:
        async with running(tiny, shortcut=shortcut) as client:
            for name, body in image_bodies(images).items():
                response = await client.post("/encode", **body)
                assert response.status_code == 200, (name, response.text)
                assert response.headers["content-type"] == "application/json"
                assert response.headers["x-model"] == "tiny/1"
                assert "x-seed" not in response.headers
                document = response.json()
                assert set(document) == {"model", "version", "latent_dim", "posterior", "latents"}
                assert document["posterior"] == {"family": "diagonal-gaussian"}
                assert (document["model"], document["version"], document["latent_dim"]) == ("tiny", "1", 2)
                got = [entry["mean"] for entry in document["latents"]]
                np.testing.assert_allclose(got, mean, rtol=1e-5, atol=1e-5)
                got = [entry["log_variance"] for entry in document["latents"]]
                np.testing.assert_allclose(got, log_variance, rtol=1e-5, atol=1e-5)
                got = [entry["kl"] for entry in document["latents"]]
                np.testing.assert_allclose(got, gaussian_kl(mean, log_variance), rtol=1e-4)

    run(scenario())


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "gif", "bmp"])
def test_encode_of_a_picture_body(run: Run, tiny: Path, bundle: Bundle, format: str) -> None:
    data = picture(grey(1)[0], format.upper())
    pixels = np.asarray(opened(data).convert("L"))[None, ..., None]
    mean, _, _ = bundle.encode(to_network(pixels))

    async def scenario() -> None:
        async with running(tiny) as client:
            headers = {"content-type": f"image/{format}", "accept": "application/x-npy"}
            response = await client.post("/encode", content=data, headers=headers)
            np.testing.assert_allclose(un_npy(response), mean, atol=1e-5)

    run(scenario())


def test_encode_outputs(run: Run, tiny: Path, bundle: Bundle) -> None:
    images = grey(3)
    mean, log_variance, _ = bundle.encode(to_network(images[..., None]))
    draws = posterior_samples(mean, log_variance, 4, seed=11)
    expected = {
        "mean": mean,
        "log_variance": log_variance,
        "posterior": np.stack((mean, log_variance), 1),
        "samples": draws,
    }

    async def scenario() -> None:
        async with running(tiny) as client:
            for output, array in expected.items():
                response = await client.post(
                    f"/encode?output={output}&samples=4&seed=11", content=npy(images), headers=dict(NPY)
                )
                got = un_npy(response)
                assert got.dtype == np.dtype(np.float32)
                assert got.shape == array.shape
                np.testing.assert_allclose(got, array, atol=1e-5)
                assert response.headers["x-seed"] == "11"
            response = await client.post("/encode?samples=4&seed=11", **image_bodies(images)["npy"])
            document = response.json()
            assert document["seed"] == 11
            np.testing.assert_allclose([entry["samples"] for entry in document["latents"]], draws, atol=1e-5)

    run(scenario())


async def check_pictures(
    client: httpx.AsyncClient, method: str, url: str, body: dict[str, Any], levels: NDArray[Any]
) -> None:
    """All answer types that a picture route has hold the same pictures (N, H, W, C)."""
    count = len(levels)

    async def get(accept: str, query: str = "") -> httpx.Response:
        sent = dict(body)
        sent["headers"] = {**sent.get("headers", {}), "accept": accept}
        response = await client.request(method, url + ("&" if "?" in url else "?") + query, **sent)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == accept
        assert response.headers["x-model"] == "tiny/1"
        return response

    def near(got: object, exact: int = 0) -> None:
        assert np.abs(np.asarray(got, int) - levels).max() <= 1 + exact

    near(un_npy(await get("application/x-npy")))
    floats = un_npy(await get("application/x-npy", "dtype=float32"))
    assert floats.dtype == np.float32
    near(np.rint(floats * 255))
    document = (await get("application/json")).json()
    near([np.asarray(opened(base64.b64decode(text)))[..., None] for text in document["images"]])
    pixels = (await get("application/json", "dtype=float32")).json()
    assert "images" not in pixels
    near(np.rint(np.array(pixels["pixels"]) * 255))
    with zipfile.ZipFile(io.BytesIO((await get("application/zip")).content)) as archive:
        near([np.asarray(opened(archive.read(name)))[..., None] for name in sorted(archive.namelist())])
    for kind in ("png", "jpeg", "webp"):
        image = opened((await get(f"image/{kind}")).content)
        assert image.format == kind.upper()
        if count == 1:
            assert image.size == (8, 8)


def test_decode(run: Run, tiny: Path, bundle: Bundle) -> None:
    latents = prior_latents(5, 2, seed=1)
    levels = to_uint8(from_network(bundle.decode(latents)))

    async def scenario() -> None:
        async with running(tiny) as client:
            as_npy = {"content": npy(latents), "headers": {"content-type": "application/x-npy"}}
            for body in ({"json": {"latents": latents.tolist()}}, as_npy):
                await check_pictures(client, "POST", "/decode", body, levels)
            await check_pictures(client, "POST", "/decode", {"json": {"latents": latents[:1].tolist()}}, levels[:1])
            response = await client.post("/decode", json={"latents": latents.tolist()})
            assert response.headers["content-type"] == "image/png"
            assert opened(response.content).size == (3 * 8 + 2 * 2, 2 * 8 + 2)

    run(scenario())


def test_reconstruct(run: Run, tiny: Path, bundle: Bundle) -> None:
    images = grey(3)
    mean, log_variance, _ = bundle.encode(to_network(images[..., None]))
    levels = to_uint8(from_network(bundle.decode(mean)))
    drawn = to_uint8(from_network(bundle.decode(posterior_samples(mean, log_variance, 1, seed=5)[:, 0])))

    async def scenario() -> None:
        async with running(tiny) as client:
            for body in image_bodies(images).values():
                await check_pictures(client, "POST", "/reconstruct", body, levels)
            body = image_bodies(images)["npy"]
            await check_pictures(client, "POST", "/reconstruct?sample=true&seed=5", body, drawn)
            response = await client.post("/reconstruct?sample=true", **body)
            assert 0 <= int(response.headers["x-seed"]) < 2**31

    run(scenario())


def test_sample(run: Run, tiny: Path, bundle: Bundle) -> None:
    latents = prior_latents(4, 2, seed=9, temperature=0.5)
    levels = to_uint8(from_network(bundle.decode(latents)))

    async def scenario() -> None:
        async with running(tiny) as client:
            await check_pictures(client, "GET", "/sample?n=4&seed=9&temperature=0.5", {}, levels)
            document = (await client.get("/sample?n=4&seed=9&temperature=0.5&format=json")).json()
            assert set(document) == {"model", "version", "seed", "images", "latents"}
            np.testing.assert_array_equal(np.array(document["latents"], np.float32), latents)
            first, second = await asyncio.gather(client.get("/sample"), client.get("/sample"))
            assert first.headers["x-seed"] != second.headers["x-seed"]
            again = await client.get(f"/sample?seed={first.headers['x-seed']}")
            assert again.content == first.content
            head = await client.head("/sample?n=4&seed=9")
            assert head.status_code == 200
            assert head.content == b""
            assert int(head.headers["content-length"]) > 0

    run(scenario())


@pytest.mark.parametrize("path", ["slerp", "linear"])
def test_interpolate(run: Run, tiny: Path, bundle: Bundle, path: str) -> None:
    images = grey(2)
    mean, _, _ = bundle.encode(to_network(images[..., None]))
    points = np.stack((mean[0], [0.5, -1], mean[1])).astype(np.float32)
    latents = interpolate(points, 4, "slerp" if path == "slerp" else "linear")
    levels = to_uint8(from_network(bundle.decode(latents)))
    body = {
        "points": [
            {"image": base64.b64encode(picture(images[0])).decode()},
            {"latent": [0.5, -1]},
            {"image": (images[1] / np.float32(255)).tolist()},
        ],
        "steps": 4,
        "path": path,
    }

    async def scenario() -> None:
        async with running(tiny) as client:
            await check_pictures(client, "POST", "/interpolate", {"json": body}, levels)
            document = (await client.post("/interpolate?format=json", json=body)).json()
            np.testing.assert_allclose(document["latents"], latents, atol=1e-5)
            strip = opened((await client.post("/interpolate", json=body)).content)
            assert strip.size == (7 * 8 + 6 * 2, 8)
            for kind in ("gif", "webp"):
                moving = opened((await client.post(f"/interpolate?format={kind}", json=body)).content)
                assert moving.is_animated  # type: ignore[attr-defined]
            two = interpolate(mean, 5, "slerp" if path == "slerp" else "linear")
            for name in ("multipart", "npy"):
                sent = image_bodies(np.concatenate((images, images)))[name]
                if name == "multipart":
                    sent = {"files": sent["files"][:2]}
                else:
                    sent = {"content": npy(images), "headers": {"content-type": "application/x-npy"}}
                response = await client.post(f"/interpolate?steps=5&path={path}&format=json", **sent)
                np.testing.assert_allclose(response.json()["latents"], two, atol=1e-5)

    run(scenario())


def test_traverse(run: Run, tiny: Path, bundle: Bundle) -> None:
    latents = traverse(np.array([0.5, 0.25], np.float32), 1, -2, 2, 5)
    levels = to_uint8(from_network(bundle.decode(latents)))
    body = {"latent": [0.5, 0.25], "dimension": 1, "low": -2, "high": 2, "steps": 5}

    async def scenario() -> None:
        async with running(tiny) as client:
            await check_pictures(client, "POST", "/traverse", {"json": body}, levels)
            document = (await client.post("/traverse?format=json", json={"dimension": 0})).json()
            np.testing.assert_allclose(document["latents"], traverse(np.zeros(2), 0, -3, 3, 9))
            moving = opened((await client.post("/traverse?format=gif", json=body)).content)
            assert moving.format == "GIF"

    run(scenario())


def test_color_and_fitting(run: Run, color: Path) -> None:
    async def scenario() -> None:
        async with running(color) as client:
            data = picture(np.zeros((20, 30, 4), np.uint8))
            response = await client.post("/reconstruct?format=npy", content=data, headers={"content-type": "image/png"})
            assert un_npy(response).shape == (1, 8, 12, 3)
            assert response.headers["x-model"] == "color/1"
            response = await client.get("/sample?n=3&format=json&dtype=float32")
            assert np.array(response.json()["pixels"]).shape == (3, 8, 12, 3)

    run(scenario())


def test_models(run: Run, tiny: Path, color: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, models=(tiny, color)) as client:
            document = (await client.get("/models")).json()
            assert document["default"] == "tiny"
            assert [model["name"] for model in document["models"]] == ["tiny", "color"]
            response = await client.get("/models/color")
            assert response.json() == document["models"][1]
            assert response.headers["x-model"] == "color/1"
            assert response.json()["image"]["width"] == 12
            assert response.json()["provider"] == "cpu"
            card = await client.get("/models/color/card")
            assert card.headers["content-type"] == "text/markdown; charset=utf-8"
            assert card.text.startswith("# color")
            response = await client.get("/sample?model=color&n=1")
            assert response.headers["x-model"] == "color/1"

    run(scenario())


def test_probes_pages_and_metrics(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            for path in ("/livez", "/readyz", "/health"):
                response = await client.get(path)
                assert response.status_code == 200
                assert response.json()["status"] == "ok"
                assert (await client.head(path)).content == b""
            response = await client.get("/")
            assert (response.status_code, response.headers["location"]) == (307, "/docs")
            page = (await client.get("/docs")).text
            assert "http" not in page.replace("http-equiv", "")
            for part in page.split('"'):
                if part.startswith("docs/assets/"):
                    assert (await client.get("/" + part)).status_code == 200
            assert (await client.get("/openapi.json")).json()["openapi"].startswith("3.")
            await client.get("/sample?n=2")
            await client.get("/nowhere/at/all")
            await client.get("/models/tiny")
            text = (await client.get("/metrics")).text
            for line in (
                'vae_requests_total{method="GET",route="/sample",status="200"} 1.0',
                'vae_requests_total{method="GET",route="unmatched",status="404"} 1.0',
                'vae_requests_total{method="GET",route="/models/{name}",status="200"} 1.0',
                'vae_batch_size_sum{graph="decoder",model="tiny"} 2.0',
                'vae_queue_depth{graph="encoder",model="tiny"} 0.0',
                'vae_model_info{model="tiny",provider="cpu",sha256="',
                "vae_requests_in_progress 0.0",
            ):
                assert line in text

    run(scenario())


@pytest.mark.parametrize("path", ["/models", "/sample?n=1"])
def test_accept_in_several_headers(run: Run, tiny: Path, path: str) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            for order in (1, -1):
                headers = [("accept", "text/html"), ("accept", "application/json")][::order]
                response = await client.get(path, headers=headers)
                assert response.headers["content-type"] == "application/json"

    run(scenario())


def test_request_ids(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny) as client:
            response = await client.get("/livez", headers={"x-request-id": "abc-123"})
            assert response.headers["x-request-id"] == "abc-123"
            for bad in ("", "a b", "x" * 200, "<script>"):
                made = (await client.get("/nowhere", headers={"x-request-id": bad})).headers["x-request-id"]
                assert made != bad
                assert len(made) == 32

    run(scenario())


@pytest.mark.parametrize("shortcut", [True, False])
def test_batch_mates_do_not_change_results(run: Run, tiny: Path, shortcut: bool) -> None:
    images = grey(40)

    async def scenario() -> None:
        async with running(tiny, shortcut=shortcut, max_batch=7) as client:

            async def encode(part: NDArray[Any]) -> NDArray[Any]:
                return un_npy(await client.post("/encode?output=posterior", content=npy(part), headers=dict(NPY)))

            alone = np.concatenate([await encode(images[i : i + 1]) for i in range(len(images))])
            together = await asyncio.gather(*(encode(images[i : i + 1]) for i in range(len(images))))
            np.testing.assert_allclose(np.concatenate(together), alone, rtol=0, atol=1e-6)
            np.testing.assert_allclose(await encode(images), alone, rtol=0, atol=1e-6)

    run(scenario())


def test_root_path(run: Run, tiny: Path) -> None:
    async def scenario() -> None:
        async with running(tiny, root_path="/vae") as client:
            for prefix in ("", "/vae"):
                assert (await client.get(f"{prefix}/sample?n=1")).status_code == 200
                assert (await client.get(f"{prefix}/models")).status_code == 200
            assert (await client.get("/")).headers["location"] == "/vae/docs"
            assert orjson.loads((await client.get("/openapi.json")).content)["servers"] == [{"url": "/vae"}]

    run(scenario())
