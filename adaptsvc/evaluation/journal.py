"""What one cell of an evaluation came to; it knows nothing of how a cell is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from adaptsvc.evaluation.record import Record, Records
from adaptsvc.evaluation.split import Setting


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


class Answers(BaseModel):
    """The test half, image by image.

    Attributes:
        label: index into the known classes, -1 for an unknown one.
        prediction: index into the known classes.
        confidence: calibrated, in (0, 1].
        ood_score: higher is less like a known class.
        logits: (N, C) before any temperature, for figures nobody has thought of yet.
        window: (M, C) the same of the images adapted to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: tuple[int, ...]
    prediction: tuple[int, ...]
    confidence: tuple[float, ...]
    ood_score: tuple[float, ...]
    logits: tuple[tuple[float, ...], ...]
    window: tuple[tuple[float, ...], ...]


class Result(Record[Cell]):
    """What one cell came to.

    Attributes:
        figures: by name; see `adaptsvc.evaluation.measure`.
        reasons: of the guard against window and candidate; empty where it would serve.
        agreement: of the candidate with the zero-shot model where that one is confident.
        marginal_entropy_nats: of the candidate's mean prediction on the images adapted to.
        refused: whether the figures are the zero-shot model's in the candidate's place.
        losses: of the last step.
        adapt_images: how many it adapted to.
        skipped_images: how many files of the domain cannot be read.
        seconds: it took.
        answers: on the test half.
    """

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


class Journal(Records[Cell, Result]):
    """The results of `adaptsvc eval`.

    Args:
        path: made when missing, with its folder.

    Raises:
        AdaptsvcError: a line before the last is no result.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, Result)
