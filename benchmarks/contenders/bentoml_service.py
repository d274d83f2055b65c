"""BentoML: a service with routes of its own mounted into it, a worker a core.

Its own way to declare a method derives a JSON schema anew for every request that is a bare body, which costs more than
all else; its documentation mounts an ASGI application where requests should reach the service as they came.
"""

import argparse
import os
import sys
from pathlib import Path

import bentoml
from fastapi import FastAPI, Request, Response

from benchmarks.contenders.graphs import Graphs, Operation

app = FastAPI(openapi_url=None)


@bentoml.service(
    name="vae",
    workers=len(os.sched_getaffinity(0)),
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
@bentoml.asgi_app(app)
class Service:
    """Both graphs. Methods are coroutines: a small model runs faster than a thread is found for it."""

    def __init__(self) -> None:
        self.graphs = Graphs(Path(os.environ["BUNDLE"]))

    async def _answer(self, operation: Operation, request: Request) -> Response:
        is_json = request.headers["content-type"] == "application/json"
        outputs = self.graphs.run(operation, self.graphs.read(operation, await request.body(), is_json=is_json))
        media = "application/json" if is_json else "application/octet-stream"
        return Response(self.graphs.write(operation, outputs, is_json=is_json), media_type=media)

    @app.post("/encode")
    async def encode(self, request: Request) -> Response:
        return await self._answer("encode", request)

    @app.post("/decode")
    async def decode(self, request: Request) -> Response:
        return await self._answer("decode", request)


def main() -> None:
    """Become `bentoml serve`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    options = parser.parse_args()
    program = str(Path(sys.executable).with_name("bentoml"))
    service = f"{__spec__.name}:Service"
    os.execv(program, [program, "serve", service, "--host", "127.0.0.1", "--port", options.port])  # noqa: S606


if __name__ == "__main__":
    main()
