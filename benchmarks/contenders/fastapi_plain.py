"""FastAPI and ONNX Runtime as their documentation teaches and as most people write it: pydantic models of lists, a pool
of threads for endpoints that are no coroutines, Pillow as it comes, ``uvicorn --workers``.

JSON answers are dicts of a declared type, which pydantic writes straight to bytes: FastAPI's documentation says that it
is the fastest. A model of lists would be written so too, but checked number by number before, which doubles the time.
"""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import Body, FastAPI, Header, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from benchmarks.contenders.graphs import Floats, Graphs, grid, to_levels

app = FastAPI()
graphs = Graphs(Path(os.environ["BUNDLE"]))


class Images(BaseModel):
    """[N][H][W], in color [N][H][W][C]. A union would look at every pixel to tell that it is the other one."""

    if graphs.channels == 1:
        images: list[list[list[float]]]
    else:
        images: list[list[list[list[float]]]]  # type: ignore[no-redef]


class Latents(BaseModel):
    """[N][D]."""

    latents: list[list[float]]


Answer = dict[str, list[Any]]


@app.post("/encode", response_model=Answer)
def encode(body: Annotated[Images | bytes, Body()], content_type: Annotated[str, Header()]) -> Answer | Response:
    """Images as JSON or bytes, or one picture. FastAPI hands over as bytes what is no JSON."""
    if isinstance(body, Images):
        images = graphs.to_network(np.array(body.images, dtype=np.float32))
    elif content_type == "image/png":
        images = read_picture(body)
    else:
        images = graphs.to_network(np.frombuffer(body, dtype=np.uint8).astype(np.float32) / np.float32(255))
    mean, log_variance = graphs.run("encode", images)
    if content_type == "application/octet-stream":
        return Response(mean.tobytes(), media_type="application/octet-stream")
    return {"mean": mean.tolist(), "log_variance": log_variance.tolist()}


@app.post("/decode", response_model=Answer)
def decode(body: Annotated[Latents | bytes, Body()]) -> Answer | Response:
    """Latents as JSON or bytes."""
    if isinstance(body, Latents):
        (pixels,) = graphs.run("decode", np.array(body.latents, dtype=np.float32))
        return {"pixels": pixels.tolist()}
    latents = np.frombuffer(body, dtype=np.float32).reshape(-1, graphs.latent_dim)
    (pixels,) = graphs.run("decode", latents)
    return Response(to_levels(pixels).tobytes(), media_type="application/octet-stream")


@app.post("/reconstruct")
def reconstruct(body: Annotated[bytes, Body()]) -> Response:
    """One picture in, one out."""
    mean, _ = graphs.run("encode", read_picture(body))
    (pixels,) = graphs.run("decode", mean)
    return picture(to_levels(pixels)[0])


@app.get("/sample")
def sample(n: int = 16) -> Response:
    """A square grid of samples."""
    latents = np.random.default_rng().standard_normal((n, graphs.latent_dim), dtype=np.float32)
    (pixels,) = graphs.run("decode", latents)
    return picture(grid(to_levels(pixels)))


def read_picture(data: bytes) -> Floats:
    """A picture file as (1, C, H, W) in [0, 1]."""
    image = Image.open(io.BytesIO(data)).convert("L" if graphs.channels == 1 else "RGB")
    image = image.resize((graphs.width, graphs.height))
    return graphs.to_network(np.array(image, dtype=np.float32) / np.float32(255))


def picture(levels: NDArray[np.uint8]) -> Response:
    """(H, W, C) as a PNG, compressed as Pillow does unless told otherwise."""
    buffer = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png")


if __name__ == "__main__":
    # uvicorn's own command line, which takes uvloop and httptools where they are installed. No contender logs requests.
    uvicorn.main(["benchmarks.contenders.fastapi_plain:app", "--no-access-log", *sys.argv[1:]])
