"""What worker and services tell each other of a candidate on trial, as JSON; it knows not where it is."""

from __future__ import annotations

from typing import Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from adaptsvc.trust.shadow import Tally

TrialOutcome: TypeAlias = Literal["promoted", "refused", "overtaken"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figures(_Record):
    """How a candidate answered live images, all service processes together."""

    images: int = Field(ge=0, description="That both versions answered.")
    agreement: FiniteFloat | None = Field(
        description="Share of them with the same class; null without any."
    )
    confidence_shift: FiniteFloat | None = Field(
        description="Mean confidence of the candidate minus that of what serves."
    )
    absolute_confidence_shift: FiniteFloat | None = Field(
        description="Mean distance of both confidences of one image."
    )
    latency_ratio: FiniteFloat | None = Field(
        description="Time of the candidate for an image against that of what serves, geometric mean."
    )
    candidate_ms: FiniteFloat | None = Field(description="Mean of the timed images.")
    served_ms: FiniteFloat | None = Field(
        description="The same of what serves, on the same images, in the same thread."
    )
    timed_images: int = Field(ge=0, description="Which these three are of.")
    dropped: int = Field(ge=0, description="Chosen images for which there was no time.")

    @classmethod
    def of(cls, tally: Tally) -> Self:
        """The figures of a tally."""
        pairs = tally.pairs
        return cls(
            images=tally.images,
            agreement=tally.agreement,
            confidence_shift=tally.mean_shift,
            absolute_confidence_shift=tally.mean_absolute_shift,
            latency_ratio=tally.latency_ratio,
            candidate_ms=1000 * tally.candidate_s / pairs if pairs else None,
            served_ms=1000 * tally.served_s / pairs if pairs else None,
            timed_images=pairs,
            dropped=tally.dropped,
        )


class Candidate(_Record):
    """A published version that passed the guard, and the version it was made from."""

    version: int = Field(ge=0)
    parent: int = Field(ge=0)


class Trial(Candidate):
    """A candidate that answers live images now."""

    since: float = Field(description="Unix time.")
    until: float = Field(description="Unix time; with too few images by then it is refused.")


class Verdict(Candidate):
    """What became of a candidate."""

    outcome: TrialOutcome = Field(
        description="`overtaken`: something else serves by now, or what serves is held."
    )
    reasons: tuple[str, ...] = Field(description="Why it does not serve; empty when it does.")
    figures: Figures
    at: float = Field(description="Unix time.")


class ShadowState(_Record):
    """What the worker says of candidates."""

    trial: Trial | None = Field(None, description="The candidate that is tried now.")
    waiting: Candidate | None = Field(None, description="The newest that waits for its turn.")
    last: Verdict | None = Field(None, description="What was decided last.")

    @property
    def versions(self) -> dict[int, str]:
        """How each candidate stands, by its version."""
        found = {} if self.waiting is None else {self.waiting.version: "waits for its shadow trial"}
        return found if self.trial is None else {**found, self.trial.version: "shadow"}


class ShadowSummary(ShadowState):
    """The same, with what the service processes have found so far."""

    figures: Figures | None = Field(description="Of the trial; null without one.")


class Report(_Record):
    """What one service process found so far of one candidate.

    Attributes:
        version: the candidate.
        tally: its sums.
        problem: why this process cannot try it, in a word; empty where it can.
    """

    version: int
    tally: Tally
    problem: str = ""
