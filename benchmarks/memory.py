"""Resident memory of this process, from Linux; it knows nothing of who allocates."""

from __future__ import annotations

import gc
from pathlib import Path

from adaptsvc import memory

MIB = 1024 * 1024
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def resident_mib() -> float:
    """RSS now, file pages included."""
    return _field("VmRSS")


def peak_mib() -> float:
    """The highest RSS since `reset_peak`."""
    return _field("VmHWM")


def reset_peak() -> None:
    """Make the peak the RSS of now."""
    _CLEAR.write_text(_RESET_PEAK)


def settle() -> float:
    """Collect garbage, hand the allocator's free pages back, and give the RSS that is left."""
    gc.collect()
    memory.give_back()
    return resident_mib()


def _field(name: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"{_STATUS} has no {name}; expected Linux")
