"""pythae is started in its own environment on the data that are named, and missing data are said before that."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import likelihood
from benchmarks.environments import Installation, Unavailable
from benchmarks.training_images import STATIC_MNIST


def test_it_is_started_in_its_environment_and_its_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / STATIC_MNIST
    data.parent.mkdir()
    data.touch()
    started: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 3)

    def made(installation: Installation) -> Path:
        assert installation.name == "pythae"
        return Path("python-of-pythae")

    monkeypatch.setattr("benchmarks.likelihood.environment", made)
    monkeypatch.setattr("benchmarks.likelihood.subprocess.run", run)
    with pytest.raises(SystemExit) as end:
        likelihood.main(["--data-dir", str(tmp_path), "--epochs", "7", "--batch", "20"])
    assert end.value.code == 3
    ((python, _, module, file, _, epochs, batch),) = started
    assert (python, module) == ("python-of-pythae", "benchmarks.contenders.likelihood_pythae")
    assert (file, epochs, batch) == (str(data), "7", "20")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"binarized_mnist\.npz: not found; .*--data-dir"):
        likelihood.main(["--data-dir", str(tmp_path)])

    def fails(installation: Installation) -> Path:
        raise Unavailable("no index")

    (tmp_path / STATIC_MNIST).parent.mkdir()
    (tmp_path / STATIC_MNIST).touch()
    monkeypatch.setattr("benchmarks.likelihood.environment", fails)
    with pytest.raises(SystemExit, match="no index"):
        likelihood.main(["--data-dir", str(tmp_path)])
