"""Claims about freed memory, on glibc; elsewhere there is nothing to claim."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
MIB = 2**20
CHURN = f"""
import ctypes, resource
from adaptsvc import memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults_of_a_block() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc({64 * MIB})
    ctypes.memset(block, 1, {64 * MIB})
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def rss() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * 4096

{{first}}
faults_of_a_block()
print(faults_of_a_block(), rss(), (memory.give_back(), rss())[1])
"""


def churned(first: str) -> tuple[int, int, int]:
    """Page faults of filling 64 MiB a second time, and the memory held before and after giving it back."""
    code = CHURN.replace("{first}", first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    faults, before, after = map(int, done.stdout.split())
    return faults, before, after


@GLIBC
def test_memory_that_is_kept_is_not_faulted_in_again_and_can_be_given_back() -> None:
    default, _, _ = churned("")
    faults, before, after = churned("memory.keep_freed()")
    assert faults < default / 10
    assert before - after > 48 * MIB
