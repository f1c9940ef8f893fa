"""Claims about processes that end with the one that started them, also where it was faster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 120.0
# Starts a process that waits for a file before it asks to end with this one, and says which it is.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
print(child.pid, flush=True)
time.sleep(1000)
"""
CHILD = """
import sys, time
from pathlib import Path
from adaptsvc.processes import end_with_parent
late = Path(sys.argv[1])
while not late.exists():
    time.sleep(0.01)
end_with_parent()
late.with_name("asked").touch()
time.sleep(1000)
"""


def runs(pid: int) -> bool:
    """Whether it does; one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class Pair:
    """A process and the one that it has started."""

    def __init__(self, go_on: Path) -> None:
        self.go_on = go_on
        command = [sys.executable, "-c", PARENT, CHILD, str(go_on)]
        self._parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._parent.stdout is not None
        with self._parent.stdout as said:
            self.child = int(said.readline())

    def kill_parent(self) -> None:
        self._parent.kill()
        self._parent.wait()

    def child_ends(self) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if not runs(self.child):
                return True
            time.sleep(0.02)
        return False

    def child_has_asked(self) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while not (asked := self.go_on.with_name("asked").exists()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return asked


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    found = Pair(tmp_path / "go_on")
    yield found
    found.kill_parent()
    if runs(found.child):
        os.kill(found.child, signal.SIGKILL)


def test_a_process_ends_when_the_one_that_started_it_is_killed(pair: Pair) -> None:
    pair.go_on.touch()
    assert pair.child_has_asked()
    assert runs(pair.child)
    pair.kill_parent()
    assert pair.child_ends()


def test_a_process_ends_that_was_orphaned_before_it_could_ask(pair: Pair) -> None:
    pair.kill_parent()
    pair.go_on.touch()
    assert pair.child_ends()
