"""The files of the repository, as a fresh clone would have them."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked(path: str = ".") -> list[Path]:
    """The files at and under ``path`` that Git knows and that are there.

    Outside a repository (an unpacked archive), or without Git: every file there is, apart from what is hidden.
    """
    try:
        command = ["git", "ls-files", "-z", "--", path]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        at = ROOT / path
        found = [at] if at.is_file() else at.rglob("*")
        return [file for file in found if file.is_file() and not file.relative_to(ROOT).parts[0].startswith(".")]
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
