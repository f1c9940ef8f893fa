"""Which versions are kept whatever their age: a set that people change. It knows nothing of versions."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from adaptsvc.errors import VersionCorruptError
from adaptsvc.versions.files import write_atomic


class Pins(Protocol):
    """The pinned versions."""

    def read(self) -> frozenset[int]:
        """All of them."""
        ...

    def add(self, version: int) -> bool:
        """Pin one; False where it was pinned."""
        ...

    def remove(self, version: int) -> bool:
        """Unpin one; False where it was not pinned."""
        ...

    def unless_pinned(self, version: int, act: Callable[[], None]) -> None:
        """Act while nobody can pin that version, unless it is pinned."""
        ...


class FilePins:
    """A small file, atomically replaced; whoever changes it holds a lock beside it.

    Args:
        path: its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> frozenset[int]:
        """See `Pins`.

        Raises:
            VersionCorruptError: the file holds something else.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return frozenset()
        try:
            return frozenset(int(version) for version in json.loads(data))
        except (ValueError, TypeError) as exc:
            raise VersionCorruptError(
                f"{self._path} holds {data[:60]!r}, expected a list of versions; delete it, then pin "
                "again what must be kept"
            ) from exc

    def add(self, version: int) -> bool:
        """See `Pins`."""
        with self._locked():
            return self._write(before := self.read(), before | {version})

    def remove(self, version: int) -> bool:
        """See `Pins`."""
        with self._locked():
            return self._write(before := self.read(), before - {version})

    def unless_pinned(self, version: int, act: Callable[[], None]) -> None:
        """See `Pins`."""
        with self._locked():
            if version not in self.read():
                act()

    def _write(self, before: frozenset[int], after: frozenset[int]) -> bool:
        if before == after:
            return False
        write_atomic(self._path, json.dumps(sorted(after)).encode())
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_name(f".{self._path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
