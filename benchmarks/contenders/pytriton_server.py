"""PyTriton: NVIDIA Triton's own server in C++, Python functions bound to it as models, dynamic batching in between.

Its package brings an interpreter of its own that reads the standard library of the environment's Python, and is an
early 3.11: with a library from 3.11.5 on it fails as it starts. Debian 12's is 3.11.2, so that there
``--python pytriton=/usr/bin/python3.11`` runs it. A model has one type of numbers, so that JSON's floats and the binary
extension's bytes are models of their own.
"""

import argparse
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.contenders.graphs import Floats, Graphs, to_levels

Arrays = dict[str, NDArray[np.generic]]


def functions(graphs: Graphs) -> dict[str, Callable[..., Arrays]]:
    """The four models, by name."""

    @batch
    def encode_json(images: Floats) -> Arrays:
        mean, log_variance = graphs.run("encode", graphs.to_network(images))
        return {"mean": mean, "log_variance": log_variance}

    @batch
    def encode_binary(images: NDArray[np.uint8]) -> Arrays:
        return {"mean": graphs.run("encode", graphs.to_network(images * np.float32(1 / 255)))[0]}

    @batch
    def decode_json(latents: Floats) -> Arrays:
        return {"pixels": graphs.run("decode", latents)[0]}

    @batch
    def decode_binary(latents: Floats) -> Arrays:
        return {"levels": to_levels(graphs.run("decode", latents)[0])}

    found = encode_json, encode_binary, decode_json, decode_binary
    return {function.__name__: function for function in found}


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--instances", type=int, default=1)
    options = parser.parse_args()
    bundle = Path(os.environ["BUNDLE"])
    graphs = Graphs(bundle)
    image, latent = (graphs.height, graphs.width, graphs.channels), (graphs.latent_dim,)
    point = [Tensor(name=name, dtype=np.float32, shape=latent) for name in ("mean", "log_variance")]
    latents = [Tensor(name="latents", dtype=np.float32, shape=latent)]
    signatures = {
        "encode_json": ([Tensor(name="images", dtype=np.float32, shape=image)], point),
        "encode_binary": ([Tensor(name="images", dtype=np.uint8, shape=image)], point[:1]),
        "decode_json": (latents, [Tensor(name="pixels", dtype=np.float32, shape=image)]),
        "decode_binary": (latents, [Tensor(name="levels", dtype=np.uint8, shape=image)]),
    }
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=options.port,
        grpc_address="127.0.0.1",
        grpc_port=free_port(),
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        instances = [functions(Graphs(bundle)) for _ in range(options.instances)]
        for name, (inputs, outputs) in signatures.items():
            triton.bind(
                model_name=name,
                infer_func=[instance[name] for instance in instances],
                inputs=inputs,
                outputs=outputs,
                config=ModelConfig(max_batch_size=256, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
            )
        triton.serve()


def free_port() -> int:
    """For what cannot be turned off."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
