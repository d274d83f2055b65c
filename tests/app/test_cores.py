"""Cores: what control groups grant, in both of their versions, and no file system that is needed for it."""

import math
from pathlib import Path

import pytest

from app.cores import quota, usable_cores


def write(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root / "groups", root / "own"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"own": "0::/\n"}, math.inf),
        ({"own": "0::/\n", "groups/cpu.max": "max 100000\n"}, math.inf),
        ({"own": "0::/\n", "groups/cpu.max": "150000 100000\n"}, 1.5),
        ({"own": "0::/a/b\n", "groups/a/cpu.max": "200000 100000\n", "groups/a/b/cpu.max": "max 100000\n"}, 2),
        ({"own": "0::/outside/of/it\n", "groups/cpu.max": "300000 100000\n"}, 3),
        ({"own": "0::/a\n", "groups/a/cpu.max": "garbage"}, math.inf),
        (
            {"own": "4:memory:/\n1:cpu,cpuacct:/a\n", "groups/cpu/a/cpu.cfs_quota_us": "50000\n",
             "groups/cpu/a/cpu.cfs_period_us": "100000\n", "groups/cpu/cpu.cfs_quota_us": "-1\n",
             "groups/cpu/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
    ],
)  # fmt: skip
def test_quota(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    assert quota(*write(tmp_path, files)) == expected


def test_at_least_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cores.quota", lambda: 0.1)
    assert usable_cores() == 1
    monkeypatch.setattr("app.cores.quota", lambda: math.inf)
    assert usable_cores() >= 1
