"""Where a run comes from: plain JSON, the versions, and the commit of the source."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tests.support.digits import digits_config
from training import provenance as module
from training.compiled import compiler_of
from training.provenance import git_commit, library_versions, provenance_of


class TestProvenance:
    def test_is_plain_json(self) -> None:
        provenance = provenance_of(digits_config(), torch.device("cpu"), torch.bfloat16, {"name": "x"})
        document = json.loads(provenance.model_dump_json())
        assert document["precision"] == "bfloat16"
        assert document["device"] == "cpu"
        assert document["started"].endswith("+00:00")

    def test_says_what_compiled_the_steps_where_they_are(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        compiler = tmp_path / "c++"
        compiler.write_text("#!/bin/sh\necho 'mine 1.2'\necho more\n", encoding="utf-8")
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        told = compiler_of(torch.device("cpu"))
        assert told == "mine 1.2"
        assert compiler_of(torch.device("cuda")) is None
        config, cpu = digits_config(), torch.device("cpu")
        assert provenance_of(config, cpu, torch.float32, {}, compiler=told).compiler == "mine 1.2"
        assert provenance_of(config, cpu, torch.float32, {}).compiler is None

    def test_names_the_versions_of_what_the_numbers_depend_on(self) -> None:
        assert {"torch", "numpy", "safetensors"} <= library_versions().keys()


class TestCommit:
    @pytest.fixture
    def checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A repository with this module in it."""
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where tests run in a hook
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(module, "__file__", str(tmp_path / "training" / "provenance.py"))
        (tmp_path / "training").mkdir()
        (tmp_path / "training" / "provenance.py").write_text("one", encoding="utf-8")
        git(tmp_path, "init", "-q")
        git(tmp_path, "config", "user.name", "Somebody")
        git(tmp_path, "config", "user.email", "somebody@example.org")
        return tmp_path

    def test_is_the_commit_of_the_source(self, checkout: Path) -> None:
        git(checkout, "add", ".")
        git(checkout, "commit", "-q", "-m", "one")
        head = git(checkout, "rev-parse", "HEAD").strip()
        git(checkout, "tag", "-a", "v1", "-m", "a tag is no commit")
        assert git_commit() == head
        (checkout / "training" / "provenance.py").write_text("two", encoding="utf-8")
        assert git_commit() == f"{head}-dirty"

    def test_is_not_that_of_a_checkout_that_we_are_only_installed_in(self, checkout: Path) -> None:
        (checkout / ".gitignore").write_text("training\n", encoding="utf-8")
        git(checkout, "add", ".")
        git(checkout, "commit", "-q", "-m", "somebody's own")
        assert git_commit() is None

    def test_is_none_without_a_checkout_or_without_git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "__file__", str(tmp_path / "provenance.py"))
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert git_commit() is None
        monkeypatch.setenv("PATH", str(tmp_path))
        assert git_commit() is None


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout
