"""MLServer: a custom runtime with custom handlers, so that a body reaches it as it came and leaves as it should.

Its V2 endpoint would take every number apart in pydantic, and knows no binary tensors over HTTP.
"""

import argparse
import json
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request, Response
from mlserver import MLModel
from mlserver.handlers import custom_handler

from benchmarks.contenders.graphs import Graphs, Operation

Said = tuple[bool, bytes]


async def body_of(request: Request) -> Said:
    """Whether it is JSON, and the body."""
    return request.headers["content-type"] == "application/json", await request.body()


class Runtime(MLModel):
    """Both graphs."""

    async def load(self) -> bool:
        self.graphs = Graphs(Path(os.environ["BUNDLE"]))
        return True

    def _answer(self, operation: Operation, said: Said) -> Response:
        is_json, body = said
        outputs = self.graphs.run(operation, self.graphs.read(operation, body, is_json=is_json))
        media = "application/json" if is_json else "application/octet-stream"
        return Response(self.graphs.write(operation, outputs, is_json=is_json), media_type=media)

    @custom_handler(rest_path="/encode")
    async def encode(self, said: Annotated[Said, Depends(body_of)]) -> Response:
        return self._answer("encode", said)

    @custom_handler(rest_path="/decode")
    async def decode(self, said: Annotated[Said, Depends(body_of)]) -> Response:
        return self._answer("decode", said)


def main() -> None:
    """Write its settings into a folder and become `mlserver start`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    settings = {
        "host": "127.0.0.1",
        "http_port": options.port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": options.workers,
        "debug": False,
        "gzip_enabled": False,
    }
    model = {"name": "vae", "implementation": "benchmarks.contenders.mlserver_runtime.Runtime"}
    folder = options.folder / "models"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", str(folder)])  # noqa: S606


def free_port() -> int:
    """For what cannot be turned off."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
