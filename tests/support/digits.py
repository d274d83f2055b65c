"""Very small runs on scikit-learn's digits: six steps an epoch, three epochs, a fraction of a second."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from training.checkpoint import Trainee, restore_checkpoint
from training.config import RunConfig, check
from training.device import choose_device
from training.loop import build_trainee
from training.run import RunFolder
from training.train import train

STEPS_PER_EPOCH, STEPS = 6, 18
Document = dict[str, Any]


def digits_document() -> Document:
    """The configuration as TOML would have it. A checkpoint every 4 steps and one an epoch: 4, 6, 8, 12, 16, 18."""
    return {
        "name": "digits",
        "seed": 3,
        "device": "cpu",
        "threads": 1,
        "image": {"height": 8, "width": 8, "channels": 1},
        "model": {
            "latent_dim": 3,
            "network": {"kind": "conv", "channels": 8, "max_channels": 8, "hidden": 16},
            "likelihood": {"family": "bernoulli"},
        },
        "data": {
            "source": "digits",
            "test_fraction": 0.4,
            "validation_fraction": 0.3,
            "binarization": "dynamic",
        },
        "optimization": {
            "epochs": 3,
            "batch_size": 125,
            "learning_rate": 3e-3,
            "warmup_steps": 3,
            "weight_decay": 0.01,
            "gradient_clip": 12.0,
            "ema_decay": 0.9,
            "precision": "float32",
        },
        "schedule": {"checkpoint_every": 4, "log_every": 2},
        "evaluation": {"importance_samples": 20, "images": 100, "batch_size": 50, "sample_chunk": 8},
    }


def digits_config(**changes: object) -> RunConfig:
    """The configuration with changes; sections are merged: ``digits_config(optimization={"epochs": 1}, seed=1)``."""
    document = digits_document()
    for key, value in changes.items():
        document[key] = document[key] | value if isinstance(value, dict) and key in document else value
    return check(document, "test")


def run_digits(folder: Path, config: RunConfig | None = None, *, resume: bool = False) -> tuple[RunFolder, bool, str]:
    """Train; the run folder, whether the run is complete, and what was printed."""
    printed = io.StringIO()
    complete = train(config or digits_config(), folder, data_dir=None, resume=resume, console=Console(file=printed))
    return RunFolder(folder), complete, printed.getvalue()


def restored(path: Path, config: RunConfig | None = None) -> Trainee:
    """What a checkpoint holds."""
    config = config or digits_config()
    trainee = build_trainee(config, choose_device("cpu"))
    restore_checkpoint(path, trainee)
    return trainee


def weights(trainee: Trainee) -> dict[str, Tensor]:
    """The weights of the model, copied."""
    return {name: tensor.clone() for name, tensor in trainee.model.state_dict().items()}


def assert_same_weights(run: RunFolder, reference: RunFolder) -> None:
    """Model, average, optimizer and generator of both checkpoints, and where they say that they are."""
    for file in ("last", "best"):
        ours, theirs = load_file(getattr(run, file)), load_file(getattr(reference, file))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].numpy().tobytes() == tensor.numpy().tobytes(), f"{file}: {name}"
        config = reference.config()
        assert restored(getattr(run, file), config).progress == restored(getattr(reference, file), config).progress
