"""Where every service process leaves one small text for the worker; it knows nothing of what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from adaptsvc.errors import StateUnavailableError
from adaptsvc.versions.files import write_atomic


class Reports(Protocol):
    """What each process wrote last."""

    def read(self) -> Mapping[str, bytes]:
        """All of them, by the name of the process.

        Raises:
            StateError: they cannot be asked for.
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Replace the one of this process; it outlives the process.

        Args:
            name: nobody else's; letters and digits.
            data: the text.

        Raises:
            StateError: it cannot be reached.
            DiskFullError: there is no room.
        """
        ...

    def clear(self) -> None:
        """Forget all of them.

        Raises:
            StateError: they cannot be reached.
            LeaseLostError: another worker writes by now.
        """
        ...


class FileReports:
    """Small files in a folder, each atomically replaced.

    Args:
        folder: created with the first report.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> Mapping[str, bytes]:
        """See `Reports`."""
        found = {}
        try:
            for path in self._folder.glob("[!.]*"):
                found[path.name] = path.read_bytes()
        except FileNotFoundError:  # cleared meanwhile
            return {}
        except OSError as exc:
            raise StateUnavailableError(f"{self._folder} cannot be read: {exc}") from exc
        return found

    def write(self, name: str, data: bytes) -> None:
        """See `Reports`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._folder / name, data)
        except OSError as exc:
            raise StateUnavailableError(f"{self._folder} cannot be written: {exc}") from exc

    def clear(self) -> None:
        """See `Reports`."""
        for path in self._folder.glob("[!.]*"):
            path.unlink(missing_ok=True)
