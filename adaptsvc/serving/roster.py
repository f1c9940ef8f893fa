"""How many connections each process of a service has, in a small file that all of them map.

It knows nothing of sockets or requests.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

NUMBER = 8  # bytes; a place is two of them, the process and its connections
PLACES = 512


class Roster:
    """This process's place among the others. Use `join`."""

    def __init__(self, numbers: memoryview, place: int) -> None:
        self._numbers = numbers
        self._mine = 2 * place + 1

    @classmethod
    def join(cls, file: Path) -> Roster:
        """Take the first place that nobody has, or whose process is gone.

        Args:
            file: made if it is not there; the same for all processes, and no older than the machine's start.

        Raises:
            OSError: it cannot be written, there is no room for it, or all places are taken.
        """
        size = 2 * NUMBER * PLACES
        with file.open("a+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                os.posix_fallocate(held.fileno(), 0, size)  # a hole that cannot be filled kills us
                numbers = memoryview(mmap.mmap(held.fileno(), size)).cast("q")
                return cls(numbers, _place(numbers, file))
            finally:  # closing does not: the map holds on to it
                fcntl.flock(held, fcntl.LOCK_UN)

    def add(self, connections: int) -> None:
        """So many more, or less; for one thread."""
        self._numbers[self._mine] += connections

    @property
    def connections(self) -> int:
        """Of this process."""
        return int(self._numbers[self._mine])

    def has_fewest(self) -> bool:
        """Whether no other process that runs has fewer connections."""
        mine = self._numbers[self._mine]
        for at in range(0, len(self._numbers), 2):
            process, connections = self._numbers[at], self._numbers[at + 1]
            if process == 0:  # places are taken in order
                break
            if connections < mine and _runs(process):
                return False
        return True


def _place(numbers: memoryview, file: Path) -> int:
    """The first place that nobody has, taken."""
    for place in range(PLACES):
        if not _runs(numbers[2 * place]):
            numbers[2 * place], numbers[2 * place + 1] = os.getpid(), 0
            return place
    raise OSError(f"{file} has places for {PLACES} processes, and all of them run")


def _runs(process: int) -> bool:
    """Whether there is a process of that number; 0 is none."""
    if process == 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
