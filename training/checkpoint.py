"""A checkpoint is one safetensors file: tensors, and a JSON document in its header. Nothing in it can execute.

One file, written under a temporary name, synced and renamed, is there whole or not at all, whatever happens to the
process.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel

from model.bundle.files import write_bytes_atomically
from model.vae import VAE
from training.errors import CheckpointError

FORMAT = "latentserve checkpoint 1"


@dataclass
class Progress:
    """Where a run stands; with the tensors, all that the next step depends on."""

    step: int = 0
    best_negative_elbo: float | None = None
    """The lowest value that validation judged by: -ELBO, unless the objective has a better judge."""
    best_step: int | None = None
    validations_without_improvement: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Trainee:
    """Everything that changes while training."""

    model: VAE
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    generator: Generator
    progress: Progress


def save_checkpoint(path: Path, trainee: Trainee) -> None:
    """Write everything that training needs to go on exactly as if it had never stopped."""
    optimizer = trainee.optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in trainee.model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in trainee.average.state_dict().items()}
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["generator"] = trainee.generator.get_state()
    document = {"progress": asdict(trainee.progress), "param_groups": optimizer["param_groups"]}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes_atomically(path, save(contiguous, {"format": FORMAT, "state": json.dumps(document)}))


def restore_checkpoint(path: Path, trainee: Trainee) -> None:
    """Put a checkpoint back into a trainee of the same configuration.

    Raises:
        CheckpointError: it is missing, damaged, or of another configuration; the trainee is then not to be used.
    """
    tensors, document = _read(path)
    try:
        trainee.model.load_state_dict(_under("model.", tensors))
        trainee.average.load_state_dict(_under("average.", tensors))
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = tensor
        if len(states) != len(list(trainee.model.parameters())):
            # PyTorch takes what is missing for a parameter that never moved, and would start its moments anew.
            raise ValueError("a parameter has no optimizer state")
        trainee.optimizer.load_state_dict({"state": states, "param_groups": document["param_groups"]})
        trainee.generator.set_state(tensors["generator"])
        for field, value in Progress(**document["progress"]).__dict__.items():
            setattr(trainee.progress, field, value)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: it does not belong to this configuration") from error


def load_average(path: Path, model: VAE) -> int:
    """Load the averaged weights into a model, for evaluation and export; returns the step they are from.

    Raises:
        CheckpointError: it is missing, damaged, or of another architecture.
    """
    tensors, document = _read(path)
    # AveragedModel keeps the weights under "module." beside its own counter.
    weights = {
        name.removeprefix("module."): tensor
        for name, tensor in _under("average.", tensors).items()
        if name != "n_averaged"
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit this architecture") from error
    return int(document["progress"]["step"])


def progress_of(path: Path) -> Progress:
    """Where a run stood when it wrote a checkpoint, from its header alone.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    _, document = _read(path, header_only=True)
    return Progress(**document["progress"])


def _read(path: Path, *, header_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = () if header_only else file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no checkpoint") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of this version ({FORMAT})")
    try:
        document = json.loads(metadata["state"])
        Progress(**document["progress"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: its header does not say where the run stood") from error
    return tensors, document


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
