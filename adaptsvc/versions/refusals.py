"""Candidates that the guard refused: a folder each, with the reasons. It knows nothing of the guard.

refused/20260504T101500.000000Z-1a2b3c4d/    delta.safetensors  head.safetensors  reason.json
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from adaptsvc.versions.files import staging
from adaptsvc.versions.manifest import Draft

log = logging.getLogger(__name__)
REASON = "reason.json"
KEPT = 20


class Refusal(BaseModel):
    """Why a candidate was refused, and what it said of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    reasons: tuple[str, ...]
    at: datetime
    draft: Draft


class Refusals:
    """The folder of refused candidates; the oldest of many go.

    Args:
        folder: created when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(
        self, draft: Draft, reasons: Sequence[str], at: datetime, files: dict[str, bytes]
    ) -> Path:
        """Keep a candidate's files with its reasons."""
        refusal = Refusal(reasons=tuple(reasons), at=at, draft=draft)
        with staging(self._folder) as content:
            for name, data in files.items():
                (content / name).write_bytes(data)
            (content / REASON).write_text(refusal.model_dump_json(indent=1))
            target = self._folder / f"{at:%Y%m%dT%H%M%S.%fZ}-{uuid4().hex[:8]}"
            content.rename(target)
        for old in self.folders()[:-KEPT]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        return target

    def folders(self) -> list[Path]:
        """One for each candidate, oldest first."""
        return sorted(p for p in self._folder.iterdir() if not p.name.startswith("."))

    def read(self) -> list[Refusal]:
        """What was said of each that can be read, oldest first."""
        return [r for folder in self.folders() if (r := self._read(folder / REASON)) is not None]

    @staticmethod
    def _read(path: Path) -> Refusal | None:
        try:
            return parse_refusal(path.read_bytes())
        except (OSError, ValidationError) as exc:
            log.warning("the refused candidate in %s is left out: %s", path.parent, exc)
            return None


def parse_refusal(data: bytes) -> Refusal:
    """From JSON.

    Raises:
        ValidationError: it is none.
    """
    return Refusal.model_validate_json(data)
