"""What goes over HTTP, as pydantic models; it knows nothing of how answers are made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from adaptsvc.types import Prediction
from adaptsvc.versions.manifest import Calibration, Manifest, OodRule

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
        top = tuple(ClassScore.model_validate(score) for score in prediction.top)
        return cls(
            image_id=image_id,
            label=prediction.label,
            confidence=prediction.confidence,
            top=top,
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

    images: tuple[ImageBody, ...] = Field(min_length=1, description="1 to 64 images.")


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
    parent: int | None
    method: str
    created_at: datetime
    metrics: dict[str, float]

    @classmethod
    def of(cls, manifest: Manifest) -> VersionSummary:
        """The summary of a manifest."""
        return cls.model_validate(manifest)


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
