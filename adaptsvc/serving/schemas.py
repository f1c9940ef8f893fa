"""What goes over HTTP, as pydantic models; it knows nothing of how answers are made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field

from adaptsvc.drift_summary import DriftSummary
from adaptsvc.shadow_record import ShadowSummary
from adaptsvc.types import Prediction
from adaptsvc.versions.history import Condition, Entry
from adaptsvc.versions.manifest import Calibration, Manifest, OodRule
from adaptsvc.versions.refusals import Refusal
from adaptsvc.versions.tasks import Asked, Stage

Probability = Annotated[float, Field(ge=0, le=1)]


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class ClassScore(_Schema):
    """One class and its calibrated probability."""

    label: str
    probability: Probability


class Result(_Schema):
    """The answer for one image."""

    image_id: str = Field(description="As it was sent; else the SHA-256 of the bytes.")
    label: str
    confidence: Probability = Field(description="Calibrated probability of `label`.")
    top: tuple[ClassScore, ...] = Field(description="The most probable classes, best first.")
    ood_score: float = Field(description="Higher is less like any known class.")
    is_ood: bool | None = Field(description="Null while the version has no threshold yet.")

    @classmethod
    def of(cls, image_id: str, prediction: Prediction) -> Result:
        """The result for one prediction."""
        return cls(
            image_id=image_id,
            label=prediction.label,
            confidence=prediction.confidence,
            top=prediction.top,
            ood_score=prediction.ood_score,
            is_ood=prediction.is_ood,
        )


class Problem(_Schema):
    """What every error says."""

    field: str = Field(description="What is wrong: body, images[3], top_k, path, ...")
    message: str = Field(description="What came, what was expected, what to do.")


class Failed(_Schema):
    """An image that could not be read, among others that could."""

    image_id: str
    error: Problem


class Classified(_Schema):
    """The answer of POST /v1/classify, in the order of the images; one version made all of it."""

    model_version: int
    results: tuple[Result | Failed, ...]


class ImageBody(_Schema):
    """One image in a JSON body."""

    data: str = Field(min_length=1, description="The encoded image, in base64.")
    image_id: str | None = Field(None, description="The id its answer has; by default its SHA-256.")


class ImagesBody(_Schema):
    """Images as JSON: the body of POST /v1/classify and /v1/embed in that form."""

    images: Annotated[tuple[ImageBody, ...], FailFast()] = Field(
        min_length=1, description="1 to 64 images."
    )


class Embedding(_Schema):
    """The embedding of one image."""

    image_id: str
    embedding: tuple[float, ...] = Field(description="Of length 1; which way is all it says.")


class Embedded(_Schema):
    """The answer of POST /v1/embed, in the order of the images; one version made all of it."""

    model_version: int
    results: tuple[Embedding | Failed, ...]


class Feedback(_Schema):
    """The body of POST /v1/feedback, and its answer once it is stored."""

    image_id: str = Field(min_length=1, description="The id the image was sent to the stream with.")
    label: str = Field(min_length=1, description="One of the class names of GET /v1/model.")


class VersionSummary(_Schema):
    """A version in the history."""

    id: int
    condition: Condition = Field(
        description="`kept`, `pruned` (only its manifest is left) or `refused` (see `code`, `reason`)."
    )
    serving: bool
    pinned: bool | None = Field(description="Never pruned; null while Redis is out of reach.")
    signed: bool | None = Field(description="Null where the manifest cannot be believed.")
    code: str | None = Field(description="Why no service takes it, for machines.")
    reason: str | None = Field(description="The same for people.")
    shadow: str | None = Field(description="Tried on live images, or waiting; it does not serve.")
    parent: int | None
    method: str | None
    created_at: datetime | None
    metrics: dict[str, float]

    @classmethod
    def of(cls, entry: Entry) -> VersionSummary:
        """The summary of an entry."""
        return cls(**_summary(entry))


class VersionDetail(VersionSummary):
    """A version, every file of it verified."""

    manifest: Manifest | None

    @classmethod
    def of(cls, entry: Entry) -> VersionDetail:
        """The whole of an entry."""
        return cls(**_summary(entry), manifest=entry.manifest)


class RefusedCandidate(_Schema):
    """What the guard did not let serve."""

    at: datetime
    parent: int | None
    method: str
    reasons: tuple[str, ...]
    metrics: dict[str, float]

    @classmethod
    def of(cls, refusal: Refusal) -> RefusedCandidate:
        """A refusal without the rest of its draft."""
        draft = refusal.draft
        return cls(
            at=refusal.at,
            parent=draft.parent,
            method=draft.method,
            reasons=refusal.reasons,
            metrics=draft.metrics,
        )


class History(_Schema):
    """The answer of GET /v1/versions."""

    serving: int | None = Field(
        description="What the pointer says; a process may be a poll behind."
    )
    held: bool = Field(description="Nothing is promoted until a version is activated without hold.")
    versions: tuple[VersionSummary, ...] = Field(description="Oldest first.")
    before: int | None = Field(
        description="Ask with `before` of this for older ones; null: no more."
    )
    refused: tuple[RefusedCandidate, ...] = Field(
        description="By the guard or on live images, oldest first."
    )
    shadow: ShadowSummary | None = Field(
        description="Candidates tried on live images; null where `shadow.fraction` is 0."
    )


class Activated(_Schema):
    """The answer of an activation; every process follows within its poll interval."""

    model_version: int
    held: bool
    sequence: int


class Pinned(_Schema):
    """The answer of a pin or its removal."""

    id: int
    pinned: bool


def _summary(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    return {
        "id": entry.id,
        "condition": entry.condition,
        "serving": entry.serving,
        "pinned": entry.pinned,
        "signed": None if manifest is None else manifest.signature is not None,
        "code": entry.code or None,
        "reason": entry.reason or None,
        "shadow": entry.shadow or None,
        "parent": None if manifest is None else manifest.parent,
        "method": None if manifest is None else manifest.method,
        "created_at": None if manifest is None else manifest.created_at,
        "metrics": {} if manifest is None else manifest.metrics,
    }


class Model(_Schema):
    """The answer of GET /v1/model: what serves now."""

    model_version: int
    model: str
    base: str
    method: str
    parent: int | None
    classes: tuple[str, ...]
    prompt: str
    logit_scale: float
    calibration: Calibration
    ood: OodRule
    metrics: dict[str, float]
    created_at: datetime
    ready_since: datetime = Field(description="When this process began to serve it.")
    refused: str | None = Field(description="Why a newer version was not taken, if one was not.")
    refused_code: str | None = Field(description="The same in a word, as in adaptsvc_swaps_total.")


class ClassesAsked(_Schema):
    """The last request for other classes."""

    id: int
    stage: Stage = Field(
        description="`waiting` for a worker, `done` (see `version`) or `refused` (see `reason`)."
    )
    classes: tuple[str, ...]
    prompt: str
    at: datetime
    version: int | None = Field(description="The first version for these classes.")
    reason: str | None = Field(description="Why there is none.")

    @classmethod
    def of(cls, asked: Asked) -> ClassesAsked | None:
        """The last request; None where there never was one."""
        request, answer = asked.request, asked.answer
        if request is None:
            return None
        return cls(
            id=request.id,
            stage=asked.stage,
            classes=request.classes,
            prompt=request.prompt,
            at=request.at,
            version=None if answer is None else answer.version,
            reason=answer.reason or None if answer is not None else None,
        )


class Classes(_Schema):
    """The answer of /v1/classes: one version, and its classes."""

    model_version: int = Field(description="What answers in this process.")
    classes: tuple[str, ...] = Field(description="Of that version.")
    prompt: str = Field(description="Of that version.")
    request: ClassesAsked | None = Field(
        description="The last for other classes, if there was one."
    )

    @classmethod
    def of(cls, manifest: Manifest, request: ClassesAsked | None) -> Classes:
        """The classes of a version."""
        return cls(
            model_version=manifest.id,
            classes=manifest.classes,
            prompt=manifest.prompt,
            request=request,
        )


class Drift(DriftSummary):
    """The answer of GET /v1/drift: what the worker wrote last, the same in every service process."""

    model_version: int = Field(description="What serves now; it may be newer than the reference.")


class ErrorBody(_Schema):
    """Every error answer."""

    error: Problem


def inlined(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a record, its definitions where they are used; for a document of several."""
    schema = kind.model_json_schema()
    resolved: dict[str, Any] = _resolved(schema, schema.pop("$defs", {}))
    return resolved


def _resolved(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_resolved(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _resolved(definitions[part["$ref"].rpartition("/")[2]], definitions)
    return {key: _resolved(value, definitions) for key, value in part.items()}
