"""How many cores this process may use: its affinity, and the CPU limit of its container.

It knows nothing of what they are used for. `os.cpu_count` says what the machine has; a pool of that size in a
container that may use two of 64 cores is throttled most of the time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OURS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
NO_LIMIT = float("inf")


def usable_cores() -> int:
    """Cores this process may use, at least 1; a limit of 2.5 counts as 2: a third would be throttled."""
    return min(len(os.sched_getaffinity(0)), max(1, math.floor(min(container_limit(), 1e6))))


def container_limit() -> float:
    """Cores that the control groups around this process allow; infinite where none says."""
    own = OURS.read_text() if OURS.exists() else ""
    return min((_limit(folder) for folder in folders_of(own, CGROUPS)), default=NO_LIMIT)


def folders_of(own: str, root: Path) -> Iterator[Path]:
    """The control groups that limit a process, its own and every one around it.

    Args:
        own: the text of /proc/self/cgroup.
        root: where control groups are mounted; in a container that is its own group already.

    Example:
        >>> [str(folder) for folder in folders_of("0::/a/b", Path("/c"))]
        ['/c', '/c/cpu', '/c/a/b', '/c/a']
    """
    yield from (root, root / "cpu")
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        for relative in (Path(path), *Path(path).parents):
            if relative != Path("/"):
                yield base / str(relative).lstrip("/")


def quota(text: str) -> float:
    """Cores in a ``cpu.max``, or in ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` one after the other.

    Example:
        >>> quota("250000 100000"), quota("max 100000"), quota("-1 100000"), quota("")
        (2.5, inf, inf, inf)
    """
    parts = text.split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or parts[1] == "0":
        return NO_LIMIT
    return int(parts[0]) / int(parts[1])


def _limit(folder: Path) -> float:
    """What one control group allows: version 2, else version 1."""
    return min(
        quota(_read(folder / "cpu.max")),
        quota(_read(folder / "cpu.cfs_quota_us") + " " + _read(folder / "cpu.cfs_period_us")),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such group from in here, or not ours to read
        return ""
