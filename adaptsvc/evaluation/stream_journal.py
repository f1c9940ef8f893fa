"""The results on streams, one JSON line per cell, on disk before the next cell starts.

It knows nothing of how a cell is run. As `adaptsvc.evaluation.journal`: a torn last line is dropped, and
cells are found again by what they are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from adaptsvc.errors import AdaptsvcError
from adaptsvc.evaluation.stream_plan import StreamCell
from adaptsvc.versions.files import sync_directory

log = logging.getLogger(__name__)
Figures: TypeAlias = dict[str, dict[str, float]]  # by domain, then by name


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Moment(_Record):
    """The service after a round.

    Attributes:
        sent: how many images had come.
        part: which part of the stream it was, from 0 on.
        method: what the round minimised.
        outcome: what it came to.
        reasons: why nothing new serves; empty when it does.
        action: what repeated trouble led to.
        version: the one that serves.
        figures: of that one on the held-out images, by domain; see `adaptsvc.evaluation.measure`.
    """

    sent: int = Field(ge=0)
    part: int = Field(ge=0)
    method: str
    outcome: str
    reasons: tuple[str, ...]
    action: str
    version: int
    figures: Figures


class StreamResult(_Record):
    """What one cell came to.

    Attributes:
        zero_shot: figures of the model as it came.
        moments: one per round.
        after_parts: figures of what served after each part of the stream.
        sent: images sent by the end of each part.
        returns: how often an earlier version was made to serve.
        dead_letters: messages the service could not use.
        skipped_images: held-out files that cannot be read.
        seconds: it took.
    """

    cell: StreamCell
    zero_shot: Figures
    moments: tuple[Moment, ...]
    after_parts: tuple[Figures, ...] = Field(min_length=1)
    sent: tuple[int, ...] = Field(min_length=1)
    returns: int = Field(ge=0)
    dead_letters: int = Field(ge=0)
    skipped_images: int = Field(ge=0)
    seconds: float = Field(ge=0)


class StreamJournal:
    """An append-only file of results.

    Args:
        path: made when missing, with its folder.

    Raises:
        AdaptsvcError: a line before the last is no result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._results = {result.cell: result for result in _recover(path)}

    @property
    def results(self) -> Mapping[StreamCell, StreamResult]:
        """Every result, by its cell."""
        return MappingProxyType(self._results)

    def append(self, result: StreamResult) -> None:
        """Add one; it survives a crash once this returns."""
        with self.path.open("ab") as file:
            file.write(result.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(self.path.parent)
        self._results[result.cell] = result


def _recover(path: Path) -> list[StreamResult]:
    """Every whole line; a last one that was cut short is removed from the file."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    results: list[StreamResult] = []
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("it was cut short")
            results.append(StreamResult.model_validate_json(line))
        except ValueError as exc:  # pydantic's error is one
            if number < len(lines):
                raise AdaptsvcError(
                    f"line {number} of {path} is no result of this version: {exc}; delete the file or "
                    "choose another --out"
                ) from exc
            log.warning("the last line of %s was cut short; its cell is measured again", path)
            os.truncate(path, sum(map(len, lines[:-1])))
    return results
