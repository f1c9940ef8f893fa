"""What a version says of itself; it knows nothing of files or models.

The manifest carries its own SHA-256 over everything else in it, and the SHA-256 of every other file of the
version, so that an altered value anywhere is seen. A signature (see adaptsvc.versions.seal) is over the same
content, so that it covers every file too.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptsvc.errors import VersionCorruptError, VersionSchemaError

SCHEMA_VERSION: Literal[1] = 1
Digest = Field(pattern=r"^[0-9a-f]{64}$")
Method: TypeAlias = Literal[
    "zero-shot",
    "ueo",
    "information-maximisation",
    "entropy-minimisation",
    "core",
    "tes",
    "carot",
    "cross-entropy",
    "label-smoothing",
    "supervised-contrastive",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ReliabilityBin(_Record):
    """Labeled images of about the same confidence, and how many of them were right."""

    images: int = Field(ge=1)
    confidence: float = Field(ge=0, le=1, description="Their mean.")
    accuracy: float = Field(ge=0, le=1)


class Calibration(_Record):
    """Confidence is softmax(logits / temperature)."""

    temperature: float = Field(gt=0)
    fitted_on: Literal["default", "inherited", "label-free", "labels"]
    reliability: tuple[ReliabilityBin, ...] = Field(
        (),
        description="By held-out labels the temperature was not fitted on; empty without enough of them.",
    )


class OodRule(_Record):
    """An image is out of distribution when its score is over the threshold; None accepts all."""

    score: Literal["msp", "mcm", "energy", "max_logit", "entropy"]
    threshold: float | None
    fitted_on: Literal["nothing", "window", "labels"]


class SelfTest(_Record):
    """A generated input and what the model must make of it; the outputs are in the head file."""

    seed: int
    images: int = Field(ge=1)
    input_sha256: str = Digest
    tolerance: float = Field(gt=0)


class Draft(_Record):
    """A version before the store gives it an id.

    Attributes:
        parent: the version it was learned from; None for a zero-shot one.
        base: SHA-256 of the base model it is a delta to.
        model: the CLIP's name, as configured.
        method: how it came about.
        classes: the C class names, in the order of the class embeddings.
        prompt: the template, with ``{}`` for the class name.
        logit_scale: s.
        metrics: figures of the round, by name.
        offsets: next offset to read per ``topic/partition``, when it was made.
        config: the settings of its round.
        seed: of its round.
    """

    parent: int | None
    base: str = Digest
    model: str
    method: Method
    classes: tuple[str, ...] = Field(min_length=2)
    prompt: str
    logit_scale: float = Field(gt=0)
    calibration: Calibration
    ood: OodRule
    self_test: SelfTest
    metrics: dict[str, float] = {}
    offsets: dict[str, int] = {}
    config: dict[str, Any] = {}
    seed: int = 0


class Manifest(Draft):
    """A published version."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: int = Field(ge=0)
    created_at: datetime
    files: dict[str, str]
    digest: str = Digest
    signature: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def seal(cls, draft: Draft, **fields: Any) -> Self:
        """The manifest of a draft, with its digest."""
        unsealed = cls(**draft.model_dump(), **fields, digest="0" * 64)
        return unsealed.model_copy(update={"digest": unsealed.content_digest()})

    def canonical(self) -> bytes:
        """Everything but digest and signature, as JSON that is the same wherever it is written."""
        left_out: dict[str, Any] = {"digest": True, "signature": True, **self._unsaid()}
        content = self.model_dump(mode="json", exclude=left_out)
        return json.dumps(content, sort_keys=True).encode()

    def to_json(self) -> bytes:
        """As its file holds it."""
        return self.model_dump_json(indent=1, exclude=self._unsaid()).encode()

    def content_digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def _unsaid(self) -> dict[str, Any]:
        """A newer field that says nothing: older manifests keep their digest, and old software reads it."""
        return {} if self.calibration.reliability else {"calibration": {"reliability"}}


def parse(text: str, version: int) -> Manifest:
    """A manifest from its JSON.

    Raises:
        VersionSchemaError: of another schema.
        VersionCorruptError: malformed, altered, or of another version.
    """
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as exc:
        other = [e["input"] for e in exc.errors() if e["loc"] == ("schema_version",)]
        if other:
            raise VersionSchemaError(
                f"the manifest of version {version} is of schema {str(other[0])[:20]}, this software reads "
                f"{SCHEMA_VERSION}: activate another version, or use the software that made it",
                version,
            ) from exc
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise VersionCorruptError(
            f"the manifest of version {version} is not valid: {where}: {first['msg']}; expected schema "
            f"{SCHEMA_VERSION}: activate another version",
            version,
        ) from exc
    if manifest.digest != manifest.content_digest():
        raise VersionCorruptError(
            f"the manifest of version {version} was altered: its digest says {manifest.digest[:12]}, its "
            f"content gives {manifest.content_digest()[:12]}; activate another version",
            version,
        )
    if manifest.id != version:
        raise VersionCorruptError(
            f"the manifest in the folder of version {version} is that of version {manifest.id}; "
            "activate another version",
            version,
        )
    return manifest
