"""What the worker says of drift and every service repeats, as JSON; it knows nothing of how it is found."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from adaptsvc.errors import StateError

SignalName: TypeAlias = Literal["embedding", "confidence", "entropy", "classes", "ood", "decode"]
SIGNALS: tuple[SignalName, ...] = get_args(SignalName)
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(_Record):
    """What images are held against."""

    version: int = Field(ge=0, description="At whose promotion it was built.")
    images: int = Field(ge=1, description="How many it is made of.")
    built_at: datetime


class SignalReport(_Record):
    """One signal: what it is now, and whether it is an alarm."""

    signal: SignalName
    value: FiniteFloat | None = Field(
        description="Of the recent images: `embedding` energy distance, `confidence` and `entropy` (nats) "
        "means, `classes` population stability index, `ood` and `decode` shares. Null while they are too few."
    )
    reference_value: FiniteFloat | None = Field(description="The same of the reference.")
    effect: FiniteFloat | None = Field(
        description="How far they are apart, from 0 to 1, whatever the number of images: energy coefficient, "
        "Kolmogorov-Smirnov distance, Jensen-Shannon divergence, difference of shares."
    )
    p_value: Share | None = Field(
        description="Of this one look, if nothing had changed. Looked at again and again it is no alarm."
    )
    statistic: FiniteFloat = Field(
        ge=0, description="Evidence of a change since the reference, in nats."
    )
    threshold: FiniteFloat = Field(gt=0, description="It is an alarm when `statistic` reaches it.")
    alarm: bool
    since: datetime | None = Field(description="When the alarm began; null without one.")


class ClassReport(_Record):
    """How often a class is seen."""

    label: str
    reference: Share = Field(description="Share of the reference's images it was chosen for.")
    recent: Share = Field(description="The same of the recent images.")
    prior: Share = Field(description="Its share of the recent images as it is most likely.")


class DriftSummary(_Record):
    """All signals, as the worker last wrote them."""

    reference: Reference | None = Field(
        description="Null while no worker has seen enough images to build one."
    )
    images: int = Field(ge=0, description="Seen since the reference was built.")
    recent_images: int = Field(ge=0, description="The newest of them, which `value` is of.")
    updated_at: datetime | None = Field(description="Null while no worker has said anything.")
    signals: tuple[SignalReport, ...] = Field(description="All six, in the same order.")
    classes: tuple[ClassReport, ...] = Field(description="Empty while there is nothing recent.")

    @classmethod
    def parse(cls, data: bytes) -> DriftSummary:
        """What a worker wrote.

        Raises:
            StateError: it is no summary.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as exc:
            raise StateError(
                f"the drift summary cannot be read: it begins with {data[:60]!r}; run service and worker of "
                "one version, the worker then writes it again"
            ) from exc


def nothing_yet(threshold: float) -> DriftSummary:
    """What there is to say before any worker has said something."""
    quiet = {"value": None, "reference_value": None, "effect": None, "p_value": None, "since": None}
    signals = tuple(
        SignalReport(signal=name, statistic=0.0, threshold=threshold, alarm=False, **quiet)
        for name in SIGNALS
    )
    return DriftSummary(
        reference=None, images=0, recent_images=0, updated_at=None, signals=signals, classes=()
    )
