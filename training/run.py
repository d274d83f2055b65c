"""The run folder: everything that is known of a training run, in files that other tools can read.

::

    runs/mnist/
      config.json        the whole RunConfig
      run.json           git commit, versions, machine, digests of the data: where the numbers come from
      metrics.jsonl      one line a log interval and a validation
      last.safetensors   the newest checkpoint: resume starts here
      best.safetensors   the checkpoint that validation judged best, by -ELBO mostly: evaluation and export start here
      metrics.json       what `evaluate` measured on the test split
      figures/           what `figures` drew
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from model.bundle.files import expand_home, write_text_atomically
from model.bundle.manifest import MANIFEST
from training.config import CONFIG_FILE, EvaluationConfig, RunConfig
from training.errors import CheckpointError, ConfigError
from training.provenance import Provenance, Resumption, rounding

if sys.platform != "win32":
    import fcntl

_Document = TypeVar("_Document", bound=BaseModel)
# A resumed run may write at other times and be evaluated otherwise; nothing that the weights depend on may differ, and
# when it validates decides which weights are the best and when it stops early.
_FREE_ON_RESUME: dict[str, set[str]] = {
    "schedule": {"checkpoint_every", "log_every", "tensorboard"},
    "evaluation": set(EvaluationConfig.model_fields),
    "data": {"path", "test_path"},  # where the data lie may change; what they are is compared by their digests
}


class RunFolder:
    """Paths of a run, and its JSON files."""

    def __init__(self, folder: Path) -> None:
        folder = expand_home(folder)
        self.folder = folder
        self.config_file = folder / CONFIG_FILE
        self.provenance_file = folder / "run.json"
        self.log_file = folder / "metrics.jsonl"
        self.last = folder / "last.safetensors"
        self.best = folder / "best.safetensors"
        self.metrics_file = folder / "metrics.json"
        self.figures = folder / "figures"

    def start(self, config: RunConfig, provenance: Provenance) -> None:
        """Make the folder and write what the run is.

        Raises:
            ConfigError: a run is there already.
        """
        if self.config_file.exists():
            raise ConfigError(
                f"{self.folder}: a run is there already; go on with it (vae train {self.folder} --resume), or name "
                "another folder with --run"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.provenance_file, provenance.model_dump_json(indent=2) + "\n")
        write_text_atomically(self.config_file, config.model_dump_json(indent=2) + "\n")

    def config(self) -> RunConfig:
        """The configuration that the run was started with.

        Raises:
            ConfigError: there is no run, or it was written by another version of this program.
        """
        return _read(self.config_file, RunConfig)

    def provenance(self) -> Provenance:
        """Where the run comes from; raises as ``config`` does."""
        return _read(self.provenance_file, Provenance)

    def record_resumption(self, now: Provenance, step: int) -> None:
        """Write into run.json that the run goes on after ``step``, by the source of ``now``."""
        before = self.provenance()
        again = Resumption(started=now.started, git_commit=now.git_commit, step=step)
        document = before.model_copy(update={"resumed": (*before.resumed, again)})
        write_text_atomically(self.provenance_file, document.model_dump_json(indent=2) + "\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """While entered, no other process trains in this folder; the system lets go of it when a process dies.

        Windows and some network file systems have no such lock: there, two runs in one folder are the user's to avoid.

        Raises:
            ConfigError: another process is at it.
        """
        if sys.platform == "win32":
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(f"{self.folder}: another process is training there") from error
            except OSError:
                alone = False
            else:
                alone = True
            # What a process that was killed while writing left behind; only if nobody can be writing now.
            for leftover in self.folder.glob(".*.tmp") if alone else ():
                leftover.unlink()
            yield
        finally:
            os.close(descriptor)

    def check_resumable(self, config: RunConfig, provenance: Provenance) -> None:
        """Refuse to go on with another configuration or other data than the run was started with.

        Raises:
            ConfigError: the configurations differ in something that the weights depend on.
            CheckpointError: the data, or what decides about rounding (device, processes, threads, ...), differ.
        """
        stored, wanted = _binding(self.config()), _binding(config)
        differing = sorted(key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key))
        if differing:
            raise ConfigError(
                f"{self.folder}: the run was started with other settings in {', '.join(differing)} "
                f"(see {self.config_file.name}); resume with the same, which vae train {self.folder} --resume does, or "
                "start another with --run"
            )
        before, now = rounding(self.provenance()), rounding(provenance)
        if before.pop("data") != now.pop("data"):
            raise CheckpointError(
                f"{self.folder}: images were added, removed or changed since the run began: "
                "the weights would not be those of an uninterrupted run; start another with --run"
            )
        for what, value in before.items():
            if value is not None and value != now[what]:  # an earlier version did not write everything down
                raise CheckpointError(
                    f"{self.folder}: {what} was {value} and is {now[what]}: "
                    "the weights would not be those of an uninterrupted run"
                )


def _binding(config: RunConfig) -> dict[str, Any]:
    """What a resumed run must have in common with the run, by ``section`` or ``section.key``."""
    document: dict[str, Any] = {}
    for section, value in config.model_dump(mode="json").items():
        if section in _FREE_ON_RESUME:
            document |= {f"{section}.{key}": v for key, v in value.items() if key not in _FREE_ON_RESUME[section]}
        else:
            document[section] = value
    return document


class MetricsLog:
    """metrics.jsonl: one JSON object a line, appended; on resume, what came after the checkpoint is cut off."""

    def __init__(self, path: Path, *, resume_at: int | None) -> None:
        if resume_at is None:
            write_text_atomically(path, "")
        else:
            kept = [line for line in read_log(path) if line["step"] <= resume_at]
            write_text_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append a line and hand it to the operating system, so that others can follow the run."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Sync and close."""
        os.fsync(self._file.fileno())
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a killed process left half-written is left out."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines


def _read(path: Path, kind: type[_Document]) -> _Document:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        why = f"no {path.name}"
        if (path.parent / MANIFEST).exists():
            why = "this is a bundle, which was made of one; name its run folder, as in runs/NAME"
        raise ConfigError(f"{path.parent}: there is no run ({why})") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: not a {path.name} of this version") from error
