"""FastAPI and ONNX Runtime, as someone who knows both would write it by hand for just these rows: bodies parsed by
orjson or not at all, nothing checked, the graphs run where the request is, a process for each core.
"""

import argparse
import io
import os
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from numpy.typing import NDArray
from PIL import Image

from benchmarks.contenders.graphs import Floats, Graphs, Operation, grid, to_levels

app = FastAPI(openapi_url=None)
graphs = Graphs(Path(os.environ["BUNDLE"]))


async def answer(operation: Operation, request: Request) -> Response:
    """A plain body in, a plain body out."""
    is_json = request.headers["content-type"] == "application/json"
    inputs = graphs.read(operation, await request.body(), is_json=is_json)
    outputs = graphs.run(operation, inputs)
    media = "application/json" if is_json else "application/octet-stream"
    return Response(graphs.write(operation, outputs, is_json=is_json), media_type=media)


@app.post("/encode")
async def encode(request: Request) -> Response:
    """Images, or one picture."""
    if request.headers["content-type"] != "image/png":
        return await answer("encode", request)
    outputs = graphs.run("encode", read_picture(await request.body()))
    return Response(graphs.write("encode", outputs, is_json=True), media_type="application/json")


@app.post("/decode")
async def decode(request: Request) -> Response:
    """Latents."""
    return await answer("decode", request)


@app.post("/reconstruct")
async def reconstruct(request: Request) -> Response:
    """One picture in, one out."""
    mean, _ = graphs.run("encode", read_picture(await request.body()))
    return picture(to_levels(graphs.run("decode", mean)[0])[0])


@app.get("/sample")
async def sample(n: int = 16) -> Response:
    """A square grid of samples."""
    latents = np.random.default_rng().standard_normal((n, graphs.latent_dim), np.float32)
    return picture(grid(to_levels(graphs.run("decode", latents)[0])))


def read_picture(data: bytes) -> Floats:
    """A picture file as (1, C, H, W) in [0, 1]."""
    with Image.open(io.BytesIO(data)) as image:
        fitted = image.convert("L" if graphs.channels == 1 else "RGB").resize((graphs.width, graphs.height))
    return graphs.to_network(np.asarray(fitted, np.float32)[None] * np.float32(1 / 255))


def picture(levels: NDArray[np.uint8]) -> Response:
    """(H, W, C) as a PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    image.save(buffer, "PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png")


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    uvicorn.run(
        "benchmarks.contenders.fastapi_by_hand:app",
        port=options.port,
        workers=options.workers,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
