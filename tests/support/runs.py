"""A run folder as training leaves it, without training: fresh weights, shaken so that the outputs differ visibly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.checkpoint import save_checkpoint
from training.config import check
from training.data.load import load_training
from training.loop import build_trainee
from training.provenance import provenance_of
from training.run import RunFolder

MLP: dict[str, Any] = {"kind": "mlp", "hidden": [16]}
CONV: dict[str, Any] = {"kind": "conv", "channels": 8, "max_channels": 8, "hidden": 16}
BERNOULLI: dict[str, Any] = {"family": "bernoulli"}
GAUSSIAN: dict[str, Any] = {"family": "gaussian"}
DIAGONAL: dict[str, Any] = {"kind": "diagonal"}
NORMAL: dict[str, Any] = {"kind": "standard-normal"}


def write_run(
    folder: Path,
    *,
    network: dict[str, Any] = MLP,
    likelihood: dict[str, Any] = BERNOULLI,
    posterior: dict[str, Any] = DIAGONAL,
    prior: dict[str, Any] = NORMAL,
    shape: tuple[int, int, int] = (8, 8, 1),
    latent_dim: int = 3,
    binarization: str = "none",
    labels: bool = True,
    images: int = 40,
    seed: int = 0,
    shake: float = 0.2,
) -> RunFolder:
    """A run on ``images`` random pictures (H, W, C), smooth as photographs are; validation gets a quarter of them.

    Weights are shaken by that standard deviation.
    """
    height, width, channels = shape
    data = folder.parent / f"{folder.name}.npz"
    arrays: dict[str, NDArray[np.generic]] = {"images": pictures(images, shape)}
    if labels:
        arrays["labels"] = np.arange(images) % 3
    folder.parent.mkdir(parents=True, exist_ok=True)
    np.savez(data, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for its own options
    config = check(
        {
            "name": "tiny-run",
            "seed": seed,
            "device": "cpu",
            "image": {"height": height, "width": width, "channels": channels},
            "model": {
                "latent_dim": latent_dim,
                "network": network,
                "posterior": posterior,
                "prior": prior,
                "likelihood": likelihood,
            },
            "data": {
                "source": "arrays",
                "path": str(data),
                "validation_fraction": 0.25,
                "binarization": binarization,
            },
            "optimization": {"epochs": 1, "batch_size": 8},
        },
        "test",
    )
    training, validation = load_training(config.data, config.image, seed=seed)
    digests = {"name": training.name, "training": training.sha256, "validation": validation.sha256}
    run = RunFolder(folder)
    run.start(config, provenance_of(config, torch.device("cpu"), torch.float32, digests))
    trainee = build_trainee(config, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainee.average.module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=shake)
    save_checkpoint(run.best, trainee)
    run.log_file.write_text(
        "".join(
            json.dumps({"step": step, "split": split, "negative_elbo": 9 - step, "distortion": 7 - step, "rate": 2})
            + "\n"
            for step in range(1, 4)
            for split in ("train", "validation")
        )
    )
    return run


def pictures(count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Smooth random pictures, uint8 ``(N, H, W, C)``: waves of random direction and color."""
    height, width, channels = shape
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = random.uniform(-6, 6, (3, count, 1, 1, channels))
    phase = waves[0] * y[None, ..., None] + waves[1] * x[None, ..., None] + waves[2]
    levels: NDArray[np.uint8] = np.rint(127.5 + 127.5 * np.sin(phase)).astype(np.uint8)
    return levels
