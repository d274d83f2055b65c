"""What every contender of `benchmarks.training` is told and tells, and the networks that all of them train.

A contender is a program: a job as JSON on its command line, an outcome as JSON on its last line of stdout. It runs in
an environment of its own, so nothing here needs more than PyTorch, NumPy and pydantic.
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from model.networks.build import build_networks
from model.networks.conv import ConvSettings
from model.networks.mlp import MLPSettings

Network = Literal["mlp", "conv"]
NETWORKS: dict[Network, MLPSettings | ConvSettings] = {
    "mlp": MLPSettings(kind="mlp", hidden=(400,), activation="relu"),
    "conv": ConvSettings(kind="conv"),
}
LATENT_DIMS: dict[Network, int] = {"mlp": 40, "conv": 50}
SHAPE = (1, 28, 28)
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Job:
    """Train a network on so many images, an epoch to warm up and ``epochs`` that are timed.

    ``data`` is an .npz with ``train``, ``valid`` and ``test``, uint8 ``(N, 28, 28)`` of 0 and 255; ``images``, a
    multiple of ``batch``, is how many are in ``train``. ``folder`` may be written to.
    """

    network: Network
    batch: int
    images: int
    epochs: int
    threads: int
    data: str
    folder: str
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    @classmethod
    def parse(cls, text: str) -> "Job":
        """From the command line."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Outcome:
    """Of a job: seconds of each timed epoch, by the clock; -ELBO of the last one, nats per image, the mean over its
    steps, None where nothing is learned; and what was trained."""

    seconds: list[float]
    loss: float | None
    parameters: int
    versions: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Outcome":
        """From the last line of what a contender printed."""
        return cls(**json.loads(text.strip().splitlines()[-1]))

    def tell(self) -> None:
        """Print it."""
        print(json.dumps(asdict(self)))


@dataclass
class Clock:
    """Read at the end of each epoch; the first epoch starts it."""

    _reads: list[float] = field(default_factory=list)

    def read(self) -> None:
        """An epoch ended."""
        self._reads.append(time.perf_counter())

    def outcome(self, loss: float | None, networks: tuple[nn.Module, nn.Module], versions: dict[str, str]) -> Outcome:
        """Of all epochs but the first."""
        seconds = [after - before for before, after in pairwise(self._reads)]
        parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
        return Outcome(seconds, loss, parameters, versions)


def networks(job: Job) -> tuple[nn.Module, nn.Module]:
    """The encoder, images ``(N, 1, 28, 28)`` -> mean and raw log_variance ``(N, 2 D)``; and the decoder, latents ``(N,
    D)`` -> logits ``(N, 1, 28, 28)``. The same layers for every contender."""
    dimension = LATENT_DIMS[job.network]
    return build_networks(NETWORKS[job.network], SHAPE, 2 * dimension, dimension, SHAPE)


def prepare(job: Job) -> None:
    """So many threads; the same first weights wherever networks are made the same way."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)


def document(job: Job) -> dict[str, Any]:
    """The configuration of ours: what it does not say is the default of `vae train`. Validation, which the others do
    without, waits for the end; lines of the log, elsewhere each 50 steps, come at the ends of epochs too."""
    steps = job.images // job.batch
    return {
        "name": "benchmark",
        "device": "cpu",
        "threads": job.threads,
        "image": {"height": 28, "width": 28, "channels": 1},
        "model": {
            "latent_dim": LATENT_DIMS[job.network],
            "network": NETWORKS[job.network].model_dump(),
            "likelihood": {"family": "bernoulli"},
        },
        "data": {"source": "arrays", "path": str(Path(job.data)), "binarization": "static"},
        "optimization": {
            "epochs": job.epochs + 1,
            "batch_size": job.batch,
            "learning_rate": LEARNING_RATE,
            "precision": job.precision,
            "compile": job.compile,
        },
        "schedule": {
            "validate_every": job.epochs + 1,
            "log_every": max(each for each in range(1, 51) if steps % each == 0),
        },
    }


def rate(outcome: Outcome, images: int) -> float:
    """Images a second, in the median epoch of so many."""
    return images / statistics.median(outcome.seconds)
