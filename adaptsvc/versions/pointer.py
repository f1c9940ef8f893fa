"""Which version serves: the only mutable thing in the store. It knows nothing of versions.

Promotion is compare-and-set: it succeeds only while the version it was learned from still serves, and only
for the worker that holds the lease.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adaptsvc.errors import PromotionConflictError, PromotionHeldError, VersionCorruptError
from adaptsvc.versions.files import write_atomic


@dataclass(frozen=True, slots=True)
class Current:
    """What the pointer says.

    Attributes:
        version: the version to serve; None before the first.
        sequence: rises by one with every change, so that going back is seen as a change too.
        held: nothing is promoted over it until a person activates a version without holding it.
    """

    version: int | None
    sequence: int
    held: bool = False


class Pointer(Protocol):
    """Where every process looks."""

    def read(self) -> Current:
        """What serves now."""
        ...

    def compare_and_set(self, expected: int | None, version: int) -> Current:
        """Move from `expected` to `version`.

        Raises:
            PromotionConflictError: something else serves.
            PromotionHeldError: a person holds what serves.
            LeaseLostError: this writer needs a lease, and does not hold it.
        """
        ...

    def force(self, version: int, *, hold: bool = False) -> Current:
        """Move to `version` from wherever it is, even from what cannot be read: a person's word.

        The sequence is above any before. With `hold` no promotion succeeds until the next `force` without it.
        """
        ...


class FilePointer:
    """A small file, atomically replaced; writers hold a lock beside it.

    Args:
        path: its folder exists.
        fence: raises when this writer may not promote; by default every writer may.
    """

    def __init__(self, path: Path, *, fence: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._fence = fence

    def read(self) -> Current:
        """What serves now.

        Raises:
            VersionCorruptError: the file is no pointer.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Current(None, 0)
        return parse(data, str(self._path))

    def compare_and_set(self, expected: int | None, version: int) -> Current:
        """Move from `expected` to `version`; see `Pointer`."""
        with self._locked():
            before = self.read()
            self._fence()
            if before.held:
                raise held(version, before.version)
            if before.version != expected:
                raise conflict(expected, version, before.version)
            return self._write(Current(version, before.sequence + 1))

    def force(self, version: int, *, hold: bool = False) -> Current:
        """Move to `version`; see `Pointer`."""
        with self._locked():
            try:
                sequence = self.read().sequence
            except VersionCorruptError:
                sequence = int(self._path.stat().st_mtime)  # above any count of changes so far
            return self._write(Current(version, sequence + 1, hold))

    def _write(self, current: Current) -> Current:
        write_atomic(self._path, dump(current))
        return current

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_name(f".{self._path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def dump(current: Current) -> bytes:
    """A pointer as JSON."""
    return json.dumps(dataclasses.asdict(current)).encode()


def parse(data: bytes, where: str) -> Current:
    """A pointer from its JSON.

    Raises:
        VersionCorruptError: it is none; the message names `where` it was.
    """
    try:
        content = json.loads(data)
        held = bool(content.get("held", False))  # what was written before there were holds has none
        return Current(int(content["version"]), int(content["sequence"]), held)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise corrupt(data, where) from exc


def corrupt(data: bytes, where: str) -> VersionCorruptError:
    """What a reader of something that is no pointer is told."""
    return VersionCorruptError(
        f"{where} holds {data[:60]!r}, expected a version and a sequence; "
        "run 'adaptsvc versions activate N'"
    )


def conflict(expected: int | None, version: int, serving: int | None) -> PromotionConflictError:
    """What a writer that was overtaken is told."""
    return PromotionConflictError(
        f"version {version} was made from version {expected}, but {serving} serves "
        "by now; make it again from that one",
        version,
    )


def held(version: int, serving: int | None) -> PromotionHeldError:
    """What a writer is told that would promote over a version that a person holds."""
    return PromotionHeldError(
        f"version {version} was not promoted: version {serving} serves and is held; let go of it with "
        f"'adaptsvc versions activate {serving}'",
        version,
    )
