"""How many cores this process may keep busy, which in a container or a service are fewer than the machine has."""

import math
import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The least of the machine's cores, those of this process's affinity, and the quota of its control groups."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, quota())))


def quota(root: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> float:
    """Seconds of computation that the control groups (version 2 or 1) grant in a second; infinity without a limit.

    A group can have no more than those that it is in, so that each on the way to the root counts. In a container the
    way may be cut short or lead outside, and the root is then the container's own.
    """
    found = [math.inf]
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        group = base / path.strip("/")
        for folder in {base, group, *(parent for parent in group.parents if parent.is_relative_to(base))}:
            limit = _read(folder / "cpu.max").split() if not controllers else _of_version_1(folder)
            if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit() and int(limit[1]) > 0:
                found.append(int(limit[0]) / int(limit[1]))
    return min(found)


def _of_version_1(folder: Path) -> list[str]:
    return [_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]  # -1: no limit


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # no control groups, or none that may be looked at
        return ""
