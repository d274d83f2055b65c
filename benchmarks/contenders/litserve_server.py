"""LitServe: a FastAPI server, worker processes behind it, batching between the two.

Its documentation's ways to speed: batching, the fast queue, more than one worker, answers that are ready to be sent.
"""

import argparse
import os
from pathlib import Path
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Depends, Request, Response

from benchmarks.contenders.graphs import Floats, Graphs, Operation, Outputs

Said = tuple[bool, bytes]


async def body_of(request: Request) -> Said:
    """Whether it is JSON, and the body as it came: it is parsed in a worker."""
    return request.headers["content-type"] == "application/json", await request.body()


class GraphAPI(litserve.LitAPI):
    """One graph. Rows know whether their answer is JSON."""

    def __init__(self, operation: Operation, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.001, api_path=f"/{operation}")
        self.operation: Operation = operation

    def setup(self, device: str) -> None:
        self.graphs = Graphs(Path(os.environ["BUNDLE"]))

    def decode_request(self, request: Annotated[Said, Depends(body_of)]) -> tuple[bool, Floats]:
        is_json, body = request
        return is_json, self.graphs.read(self.operation, body, is_json=is_json)

    def batch(self, inputs: list[tuple[bool, Floats]]) -> list[tuple[bool, Floats]]:
        return inputs

    def unbatch(self, output: Any) -> Any:
        return output

    def predict(self, x: Any) -> Any:
        if isinstance(x, tuple):
            return x[0], self.graphs.run(self.operation, x[1])
        outputs = self.graphs.run(self.operation, np.concatenate([array for _, array in x]))
        ends = np.cumsum([len(array) for _, array in x])[:-1]
        split = zip(*(np.split(output, ends) for output in outputs), strict=True)
        return [(is_json, part) for (is_json, _), part in zip(x, split, strict=True)]

    def encode_response(self, output: tuple[bool, Outputs]) -> Response:
        is_json, arrays = output
        media = "application/json" if is_json else "application/octet-stream"
        return Response(self.graphs.write(self.operation, arrays, is_json=is_json), media_type=media)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    server = litserve.LitServer(
        [GraphAPI("encode", options.batch), GraphAPI("decode", options.batch)],
        accelerator="cpu",
        workers_per_device=options.workers,
        fast_queue=True,
        timeout=30,
    )
    server.run(
        host="127.0.0.1",
        port=options.port,
        num_api_servers=options.servers,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
