"""Where the worker leaves one small text for every service process; it knows nothing of what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from adaptsvc.errors import StateUnavailableError
from adaptsvc.versions.files import write_atomic


class Board(Protocol):
    """What the worker wrote last."""

    def read(self) -> bytes | None:
        """All of it; None while nothing was written.

        Raises:
            StateError: it cannot be asked.
        """
        ...

    def write(self, data: bytes) -> None:
        """Replace it.

        Raises:
            StateError: it cannot be reached.
            LeaseLostError: another worker writes by now.
            DiskFullError: there is no room.
        """
        ...


class FileBoard:
    """A small file, atomically replaced.

    Args:
        path: its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        """See `Board`."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StateUnavailableError(f"{self._path} cannot be read: {exc}") from exc

    def write(self, data: bytes) -> None:
        """See `Board`."""
        write_atomic(self._path, data)
