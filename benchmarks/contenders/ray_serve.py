"""Ray Serve: an HTTP proxy in front of replicas that are processes; dynamic batching within a replica.

Run with its switches for throughput, which put HAProxy in the place of the proxy that is written in Python.
"""

import argparse
import os
import signal
import threading
from pathlib import Path

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.contenders.graphs import Floats, Graphs, Operation, Outputs


@serve.deployment
class Deployment:
    """Both graphs."""

    def __init__(self, bundle: str) -> None:
        self.graphs = Graphs(Path(bundle))

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0)
    async def encode(self, batch: list[Floats]) -> list[Outputs]:
        """One run for many requests."""
        return self._run("encode", batch)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0)
    async def decode(self, batch: list[Floats]) -> list[Outputs]:
        """One run for many requests."""
        return self._run("decode", batch)

    def _run(self, operation: Operation, batch: list[Floats]) -> list[Outputs]:
        outputs = self.graphs.run(operation, np.concatenate(batch) if len(batch) > 1 else batch[0])
        ends = np.cumsum([len(array) for array in batch])[:-1]
        return list(zip(*(np.split(output, ends) for output in outputs), strict=True))

    async def __call__(self, request: Request) -> Response:
        operation: Operation = "encode" if request.url.path == "/encode" else "decode"
        is_json = request.headers["content-type"] == "application/json"
        inputs = self.graphs.read(operation, await request.body(), is_json=is_json)
        outputs = await (self.encode(inputs) if operation == "encode" else self.decode(inputs))
        media = "application/json" if is_json else "application/octet-stream"
        return Response(self.graphs.write(operation, outputs, is_json=is_json), media_type=media)


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replicas", type=int, default=1)
    options = parser.parse_args()
    ended = threading.Event()
    ray.init(num_cpus=options.replicas + 1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port}, logging_config={"enable_access_log": False})
    deployment = Deployment.options(  # type: ignore[attr-defined]
        num_replicas=options.replicas, max_ongoing_requests=256
    )
    serve.run(deployment.bind(os.environ["BUNDLE"]), name="vae", route_prefix="/")
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
