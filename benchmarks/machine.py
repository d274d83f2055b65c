"""Where and when it was measured, and what."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.environments import ROOT


def facts(cores: int) -> dict[str, str]:
    """For the head of a report."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit of ours": commit(),
        "processor": processor(),
        "cores": f"{cores}, shared by clients and servers",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name."""
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def commit() -> str:
    """The working tree's commit, and whether what is served differs from it."""
    short = _git("rev-parse", "--short=8", "HEAD")
    changed = _git("status", "--porcelain", "--", "app", "model", "vae.py", "pyproject.toml", "constraints.txt")
    return f"{short or 'unknown'}{', changed since' if changed else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip()
