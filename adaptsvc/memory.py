"""Freed memory: kept for the next step, or given back to the system. It knows nothing of what was in it.

Only glibc needs telling; elsewhere both do nothing.
"""

from __future__ import annotations

import ctypes
from functools import cache

# The names of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed() -> None:
    """Let this process keep what it frees, until it gives it back.

    glibc maps every large block anew and unmaps it when it is freed, so that each step of a round faults in
    gigabytes of zeroed pages: a third of its time on a small tower.
    """
    if option := getattr(_libc(), "mallopt", None):
        option(M_MMAP_MAX, 0)
        option(M_TRIM_THRESHOLD, NEVER)


def give_back() -> None:
    """Freed pages to the system."""
    if trim := getattr(_libc(), "malloc_trim", None):
        trim(0)


@cache
def _libc() -> ctypes.CDLL:
    """One: each makes a class, which is garbage that only the collector frees."""
    return ctypes.CDLL(None)
