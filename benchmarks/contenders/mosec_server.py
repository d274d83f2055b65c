"""mosec: its HTTP server is written in Rust, its workers are Python processes behind it. With and without batching.

A worker sees a body and not its type, so that JSON is told by how it begins.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mosec import Runtime, Server, Worker

from benchmarks.contenders.graphs import Floats, Graphs, Operation, Outputs, looks_like_json

BUNDLE = Path(os.environ.get("BUNDLE", ""))


@dataclass(slots=True)
class Work:
    """What passes between the stages of a worker, in its own process."""

    is_json: bool
    arrays: Outputs


class GraphWorker(Worker):
    """One graph."""

    operation: Operation
    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self.graphs = Graphs(BUNDLE)

    def deserialize(self, data: bytes) -> Work:
        is_json = looks_like_json(self.operation, data)
        return Work(is_json, (self.graphs.read(self.operation, data, is_json=is_json),))

    def serialize(self, data: Work) -> bytes:
        return self.graphs.write(self.operation, data.arrays, is_json=data.is_json)

    def infer(self, inputs: Floats) -> Outputs:
        """What the graph gives."""
        return self.graphs.run(self.operation, inputs)


class Single(GraphWorker):
    """Request by request."""

    def forward(self, data: Work) -> Work:
        return Work(data.is_json, self.infer(data.arrays[0]))


class Batched(GraphWorker):
    """Requests of any sizes in one run."""

    def forward(self, data: list[Work]) -> list[Work]:
        if len(data) == 1:
            return [Work(data[0].is_json, self.infer(data[0].arrays[0]))]
        outputs = self.infer(np.concatenate([work.arrays[0] for work in data]))
        ends = np.cumsum([len(work.arrays[0]) for work in data])[:-1]
        split = zip(*(np.split(output, ends) for output in outputs), strict=True)
        return [Work(work.is_json, part) for work, part in zip(data, split, strict=True)]


class EncodeSingle(Single):
    """encoder.onnx, unbatched."""

    operation = "encode"


class DecodeSingle(Single):
    """decoder.onnx, unbatched."""

    operation = "decode"


class EncodeBatched(Batched):
    """encoder.onnx, batched."""

    operation = "encode"


class DecodeBatched(Batched):
    """decoder.onnx, batched."""

    operation = "decode"


def main() -> None:
    """Serve. mosec reads its own options, such as --port, from the same command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    options, _ = parser.parse_known_args()
    batched = options.batch > 1
    workers = {
        "/encode": EncodeBatched if batched else EncodeSingle,
        "/decode": DecodeBatched if batched else DecodeSingle,
    }
    server = Server()
    server.register_runtime(
        {
            # A wait of 1 ms is the least: with 0 it takes its default of 10.
            path: [Runtime(worker, num=options.workers, max_batch_size=options.batch, max_wait_time=1, timeout=30)]
            for path, worker in workers.items()
        }
    )
    server.run()


if __name__ == "__main__":
    main()
