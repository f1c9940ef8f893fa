"""A pointer that says what it said last while it cannot be asked. It knows nothing of why it cannot.

So a service goes on with the version it has, and can start with it, when the shared state is out of reach.
"""

from __future__ import annotations

import logging
from pathlib import Path

from adaptsvc.errors import DiskFullError, StateError, VersionCorruptError
from adaptsvc.versions.files import write_atomic
from adaptsvc.versions.pointer import Current, Pointer, dump, parse

log = logging.getLogger(__name__)


class Remembered:
    """A pointer with a memory.

    Args:
        pointer: asked first.
        path: of the memory, a file; its folder exists.
    """

    def __init__(self, pointer: Pointer, path: Path) -> None:
        self._pointer = pointer
        self._path = path
        self._last = self._recall()

    def read(self) -> Current:
        """What serves now, or served when it could last be asked.

        Raises:
            StateError: it cannot be asked, and never could.
        """
        try:
            current = self._pointer.read()
        except StateError:
            if self._last.version is None:
                raise
            return self._last
        if current != self._last and current.version is not None:
            self._remember(current)
        return current

    def compare_and_set(self, expected: int | None, version: int) -> Current:
        """See `Pointer`; nothing is remembered before it is read."""
        return self._pointer.compare_and_set(expected, version)

    def force(self, version: int, *, hold: bool = False) -> Current:
        """See `Pointer`; nothing is remembered before it is read."""
        return self._pointer.force(version, hold=hold)

    def _remember(self, current: Current) -> None:
        self._last = current
        try:
            write_atomic(self._path, dump(current))
        except (OSError, DiskFullError) as exc:
            log.warning(
                "a service started without Redis will not know version %s: %s", current, exc
            )

    def _recall(self) -> Current:
        try:
            return parse(self._path.read_bytes(), str(self._path))
        except (OSError, VersionCorruptError):
            return Current(None, 0)
