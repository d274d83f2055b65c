"""Where a run comes from: the source, the libraries, the machine, the data, and what of it decides about rounding."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
from pydantic import BaseModel

from training.config import RunConfig

_LIBRARIES = ("torch", "numpy", "onnx", "onnxscript", "onnxruntime", "pillow", "safetensors", "scikit-learn")


class Resumption(BaseModel):
    """That a run went on after a step, when, and by which source."""

    started: str
    git_commit: str | None
    step: int


class Provenance(BaseModel):
    """Where a run comes from. What has a default is missing in runs of earlier versions."""

    started: str
    git_commit: str | None
    python: str
    platform: str
    libraries: dict[str, str]
    device: str
    threads: int
    precision: str
    seed: int
    data: dict[str, str]
    cpu_capability: str | None = None
    processes: int = 1
    compiler: str | None = None
    """What compiled the steps for a CPU; none where they were not compiled."""
    test_images_decoded: bool = False
    """That all test images could be decoded before training began."""
    resumed: tuple[Resumption, ...] = ()

    @property
    def commits(self) -> list[str | None]:
        """Every commit that trained, each once, in their order."""
        return list(dict.fromkeys([self.git_commit, *(each.git_commit for each in self.resumed)]))


def provenance_of(
    config: RunConfig,
    device: torch.device,
    precision: torch.dtype,
    data: dict[str, str],
    *,
    processes: int = 1,
    test_images_decoded: bool = False,
    compiler: str | None = None,
) -> Provenance:
    """What this process, on this machine, now, would put into run.json."""
    return Provenance(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=git_commit(),
        python=platform.python_version(),
        platform=platform.platform(),
        libraries=library_versions(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        precision=str(precision).removeprefix("torch."),
        seed=config.seed,
        data=data,
        # Which instructions sums are made with, and so how they are rounded.
        cpu_capability=torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else None,
        processes=processes,
        compiler=compiler,
        test_images_decoded=test_images_decoded,
    )


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: version for name in _LIBRARIES if (version := _version(name)) is not None}


def git_commit() -> str | None:
    """The commit of the source that is running, with ``-dirty`` where files differ from it; None outside a checkout."""
    here = Path(__file__)
    try:
        # An installation inside somebody else's checkout must not be taken for a part of it.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 (the arguments are ours)
        ["git", *arguments],  # noqa: S607 (found on the PATH)
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()


def rounding(provenance: Provenance) -> dict[str, object]:
    """The data, and what decides how sums over them are rounded."""
    return {
        # Not their name: a folder that was moved or renamed holds the same images.
        "data": {split: provenance.data.get(split) for split in ("training", "validation")},
        "device": provenance.device,
        "number of processes": provenance.processes,
        "threads": provenance.threads,
        "precision": provenance.precision,
        "PyTorch": provenance.libraries.get("torch"),
        "CPU capability": provenance.cpu_capability,
        "C++ compiler": provenance.compiler,
    }


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
