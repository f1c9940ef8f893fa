"""The results of an evaluation, one JSON line per cell, on disk before the next cell starts.

It knows nothing of how a cell is run. A run that was cut off goes on where it stopped: a torn last line is
dropped, and cells are found again by what they are and by the digest of their configuration and files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, Field

from adaptsvc.errors import AdaptsvcError
from adaptsvc.evaluation.split import Setting
from adaptsvc.versions.files import sync_directory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: a domain, a setting, a method, a seed.

    Attributes:
        digest: of everything else its figures depend on.
    """

    domain: str
    setting: Setting
    method: str
    seed: int
    digest: str


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Answers(_Record):
    """The test half, image by image.

    Attributes:
        label: index into the known classes, -1 for an unknown one.
        prediction: index into the known classes.
        confidence: calibrated, in (0, 1].
        ood_score: higher is less like a known class.
        logits: (N, C) before any temperature, for figures nobody has thought of yet.
        window: (M, C) the same of the images adapted to.
    """

    label: tuple[int, ...]
    prediction: tuple[int, ...]
    confidence: tuple[float, ...]
    ood_score: tuple[float, ...]
    logits: tuple[tuple[float, ...], ...]
    window: tuple[tuple[float, ...], ...]


class Result(_Record):
    """What one cell came to.

    Attributes:
        figures: by name; see `adaptsvc.evaluation.measure`.
        reasons: of the guard against the candidate; empty where it would serve.
        agreement: of the candidate with the zero-shot model where that one is confident.
        marginal_entropy_nats: of the candidate's mean prediction on the images adapted to.
        refused: whether the figures are the zero-shot model's in the candidate's place.
        losses: of the last step.
        adapt_images: how many it adapted to.
        skipped_images: how many files of the domain cannot be read.
        seconds: it took.
        answers: on the test half.
    """

    cell: Cell
    figures: dict[str, float]
    reasons: tuple[str, ...]
    agreement: float
    marginal_entropy_nats: float
    refused: bool
    losses: dict[str, float]
    adapt_images: int = Field(ge=0)
    skipped_images: int = Field(ge=0)
    seconds: float = Field(ge=0)
    answers: Answers


class Journal:
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
    def results(self) -> Mapping[Cell, Result]:
        """Every result, by its cell."""
        return MappingProxyType(self._results)

    def append(self, result: Result) -> None:
        """Add one; it survives a crash once this returns."""
        new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(result.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(self.path.parent)
        self._results[result.cell] = result


def _recover(path: Path) -> list[Result]:
    """Every whole line; a last one that was cut short is removed from the file."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    results: list[Result] = []
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("it was cut short")
            results.append(Result.model_validate_json(line))
        except ValueError as exc:  # pydantic's error is one
            if number < len(lines):
                raise AdaptsvcError(
                    f"line {number} of {path} is no result of this version: {exc}; delete the file or "
                    "choose another --out"
                ) from exc
            log.warning("the last line of %s was cut short; its cell is measured again", path)
            os.truncate(path, sum(map(len, lines[:-1])))
    return results
