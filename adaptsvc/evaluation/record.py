"""Results on disk, one JSON line per cell, before the next cell starts; it knows nothing of what they hold.

A run that was cut off goes on where it stopped: a torn last line is dropped, and results are found again by
their cells.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from adaptsvc.errors import AdaptsvcError
from adaptsvc.versions.files import sync_directory

log = logging.getLogger(__name__)
CellT = TypeVar("CellT", bound=Hashable)


class Record(BaseModel, Generic[CellT]):
    """What one cell came to.

    Attributes:
        cell: which measurement.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cell: CellT


RecordT = TypeVar("RecordT", bound=Record[Any])


class Records(Generic[CellT, RecordT]):
    """An append-only file of results.

    Args:
        path: made when missing, with its folder.
        kind: of the results.

    Raises:
        AdaptsvcError: a line before the last is no result.
    """

    def __init__(self, path: Path, kind: type[RecordT]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._results: dict[CellT, RecordT] = {}
        for result in _recover(path, kind):
            self._results[result.cell] = result

    @property
    def results(self) -> Mapping[CellT, RecordT]:
        """Every result, by its cell."""
        return MappingProxyType(self._results)

    def append(self, result: RecordT) -> None:
        """Add one; it survives a crash once this returns."""
        new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(result.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(self.path.parent)
        self._results[result.cell] = result


def _recover(path: Path, kind: type[RecordT]) -> list[RecordT]:
    """Every whole line; a last one that was cut short is removed from the file."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    results: list[RecordT] = []
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("it was cut short")
            results.append(kind.model_validate_json(line))
        except ValueError as exc:  # pydantic's error is one
            if number < len(lines):
                raise AdaptsvcError(
                    f"line {number} of {path} is no result of this version: {exc}; delete the file or "
                    "choose another --out"
                ) from exc
            log.warning("the last line of %s was cut short; its cell is measured again", path)
            os.truncate(path, sum(map(len, lines[:-1])))
    return results
