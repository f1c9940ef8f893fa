"""Classes, versions and drift as the client gives them; it knows nothing of HTTP.

What a newer service says besides is left out, so that a client need not be as new as its service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from adaptsvc.errors import ServiceError

Kind = TypeVar("Kind")
Answering: TypeAlias = Annotated[int, Field(validation_alias="model_version")]
Stage: TypeAlias = Literal["waiting", "done", "refused"]


@dataclass(frozen=True, slots=True)
class ClassesAsked:
    """The last request for other classes.

    Attributes:
        stage: ``waiting`` for a worker, ``done`` (see `version`) or ``refused`` (see `reason`).
        version: the first version for these classes.
        reason: why there is none.
    """

    id: int
    stage: Stage
    classes: tuple[str, ...]
    prompt: str
    at: datetime
    version: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Classes:
    """What the process that was asked answers with, and the last request for other classes."""

    version: Answering
    classes: tuple[str, ...]
    prompt: str
    request: ClassesAsked | None


@dataclass(frozen=True, slots=True)
class Version:
    """A version in the history.

    Attributes:
        condition: ``kept``, ``pruned`` or ``refused`` (see `code` and `reason`).
        pinned: never pruned; None while the service cannot tell.
        signed: None where the manifest cannot be believed.
        shadow: how it stands as a candidate that is tried on live images; None where it is none.
    """

    id: int
    condition: str
    serving: bool
    pinned: bool | None
    signed: bool | None
    code: str | None
    reason: str | None
    shadow: str | None
    parent: int | None
    method: str | None
    created_at: datetime | None
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class VersionDetail(Version):
    """A version, every file of it verified, with its manifest as JSON."""

    manifest: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A candidate that the guard, or the live images, did not let serve."""

    at: datetime
    parent: int | None
    method: str
    reasons: tuple[str, ...]
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class TrialFigures:
    """How a candidate answered live images; None where there were none to say it of."""

    images: int
    agreement: float | None
    confidence_shift: float | None
    absolute_confidence_shift: float | None
    latency_ratio: float | None
    candidate_ms: float | None
    served_ms: float | None
    timed_images: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that passed the guard, and the one it was made from."""

    version: int
    parent: int


@dataclass(frozen=True, slots=True)
class Trial(Candidate):
    """A candidate that answers live images now, between two times (Unix)."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Verdict(Candidate):
    """What became of a candidate: ``promoted``, ``refused`` or ``overtaken``, and when (Unix)."""

    outcome: str
    reasons: tuple[str, ...]
    figures: TrialFigures
    at: float


@dataclass(frozen=True, slots=True)
class Shadow:
    """Candidates on live images: tried, waiting, decided last; figures are of the one that is tried."""

    trial: Trial | None
    waiting: Candidate | None
    last: Verdict | None
    figures: TrialFigures | None


@dataclass(frozen=True, slots=True)
class History:
    """Versions, oldest first.

    Attributes:
        serving: what the pointer says; a process may be a poll behind.
        held: nothing is promoted until a version is activated without hold.
        before: ask for versions before this one for older ones; None where there are no more.
        refused: candidates, oldest first.
        shadow: None where no candidate is tried on live images.
    """

    serving: int | None
    held: bool
    versions: tuple[Version, ...]
    before: int | None
    refused: tuple[Refused, ...]
    shadow: Shadow | None


@dataclass(frozen=True, slots=True)
class Values:
    """A value before and after; None where there is none."""

    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class TensorChange:
    """How far a parameter went: the norm of its change relative to its own, and its largest entry."""

    relative: float
    largest: float


@dataclass(frozen=True, slots=True)
class Difference:
    """From one version to another; `class_similarity` is the cosine of the classes that both have."""

    before: int
    after: int
    fields: dict[str, Values]
    metrics: dict[str, Values]
    classes_added: tuple[str, ...]
    classes_removed: tuple[str, ...]
    class_similarity: dict[str, float]
    parameters: dict[str, TensorChange]
    parameters_added: tuple[str, ...]
    parameters_removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Activated:
    """A version that was made to serve; every process follows within its poll interval."""

    version: Answering
    held: bool
    sequence: int


@dataclass(frozen=True, slots=True)
class DriftReference:
    """What images are held against: built of so many, at the promotion of a version."""

    version: int
    images: int
    built_at: datetime


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal of drift: it is an alarm when `statistic` reaches `threshold`."""

    signal: str
    value: float | None
    reference_value: float | None
    effect: float | None
    p_value: float | None
    statistic: float
    threshold: float
    alarm: bool
    since: datetime | None


@dataclass(frozen=True, slots=True)
class ClassShare:
    """How often a class is seen: of the reference, of recent images, and of those as is most likely."""

    label: str
    reference: float
    recent: float
    prior: float


@dataclass(frozen=True, slots=True)
class Drift:
    """What the worker found; None and 0 while it has seen too little."""

    version: Answering
    reference: DriftReference | None
    images: int
    recent_images: int
    updated_at: datetime | None
    signals: tuple[Signal, ...]
    classes: tuple[ClassShare, ...]

    @property
    def alarms(self) -> tuple[str, ...]:
        """The names of the signals that are alarms now."""
        return tuple(each.signal for each in self.signals if each.alarm)


def reading(kind: type[Kind]) -> Callable[[Any], Kind]:
    """What makes such an answer of its JSON.

    Raises:
        ServiceError: when it is called with something else.
    """

    def read(body: Any) -> Kind:
        try:
            answer: Kind = _adapter(cast(Any, kind)).validate_python(body)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            raise ServiceError(
                f"the answer cannot be read: {where}: {first['msg']}; is the service older than this client?",
                field=where,
            ) from exc
        return answer

    return read


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Made when it is first needed: it takes milliseconds."""
    return TypeAdapter(kind)
