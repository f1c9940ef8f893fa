"""What one stream came to; it knows nothing of how it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from adaptsvc.evaluation.record import Record, Records
from adaptsvc.evaluation.stream_plan import StreamCell

Figures: TypeAlias = dict[str, dict[str, float]]  # by domain, then by name


class Moment(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sent: int = Field(ge=0)
    part: int = Field(ge=0)
    method: str
    outcome: str
    reasons: tuple[str, ...]
    action: str
    version: int
    figures: Figures


class StreamResult(Record[StreamCell]):
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

    zero_shot: Figures
    moments: tuple[Moment, ...]
    after_parts: tuple[Figures, ...] = Field(min_length=1)
    sent: tuple[int, ...] = Field(min_length=1)
    returns: int = Field(ge=0)
    dead_letters: int = Field(ge=0)
    skipped_images: int = Field(ge=0)
    seconds: float = Field(ge=0)


class StreamJournal(Records[StreamCell, StreamResult]):
    """The results of `adaptsvc eval-stream`.

    Args:
        path: made when missing, with its folder.

    Raises:
        AdaptsvcError: a line before the last is no result.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, StreamResult)
