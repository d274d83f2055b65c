"""Virtual environments, one a contender, in a folder that git ignores; made anew when what they should hold changes."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".bench"
REQUIREMENTS = ROOT / "benchmarks" / "contenders"
_MARKER = "installed"


class Unavailable(Exception):
    """A contender cannot be installed here; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What an environment holds: what pip is told, and the files that decide it."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    decided_by: tuple[Path, ...]
    interpreter: str = sys.executable

    @property
    def fingerprint(self) -> str:
        """Changes when the environment has to."""
        parts = [
            self.interpreter,
            sys.version,
            *self.arguments,
            *(path.read_text(encoding="utf-8") for path in self.decided_by),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def of_requirements(name: str) -> Installation:
    """What ``contenders/NAME.txt`` lists."""
    file = REQUIREMENTS / f"{name}.txt"
    return Installation(name, ("-r", str(file)), ROOT, (file,))


def of_source(name: str, source: Path) -> Installation:
    """This project as `make serve` installs it: the server alone, in the versions of its constraints."""
    files = (source / "pyproject.toml", source / "constraints.txt")
    return Installation(name, ("-c", "constraints.txt", "-e", "."), source, files)


Pythons = Callable[[Installation], Path]
"""From what should be installed to the interpreter of an environment that holds it. Raises Unavailable."""


def environment(installation: Installation) -> Path:
    """Make the environment, or take the one that is there; its interpreter. Raises Unavailable."""
    folder = WORK / "environments" / installation.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it
        return _made(folder, installation)


def _made(folder: Path, installation: Installation) -> Path:
    marker = folder / _MARKER
    python = folder / "bin" / "python"
    fingerprint = installation.fingerprint
    if marker.exists() and marker.read_text() == fingerprint:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run([installation.interpreter, "-m", "venv", str(folder)], ROOT)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *installation.arguments], installation.folder)
    marker.write_text(fingerprint)
    return python


def source_at(revision: str) -> tuple[str, Path]:
    """The files of an earlier commit in a folder of their own: its abbreviated name, the folder. Raises Unavailable."""
    commit = _run(["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], ROOT, f"no commit {revision}")
    short = _run(["git", "rev-parse", "--short=8", commit], ROOT)
    folder = WORK / "revisions" / commit
    if not (folder / "pyproject.toml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        archive = WORK / "revisions" / f"{commit}.tar"
        _run(["git", "archive", "--format=tar", "-o", str(archive), commit], ROOT)
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
        archive.unlink()
    return short, folder


def version_of(python: Path, package: str) -> str:
    """The version of a package in an environment; a question mark where it has none."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() or "?"


def _run(command: list[str], folder: Path, reason: str = "") -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or ["failed"]
        raise Unavailable(reason or f"{Path(command[0]).name} {' '.join(command[1:4])}: {lines[-1]}"[:300])
    return done.stdout.strip()
