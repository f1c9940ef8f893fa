"""What is asked of images and what is answered, as the client gives it; it knows nothing of HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image, and the id its answer is to have; by default the SHA-256 of its bytes."""

    data: bytes
    image_id: str = ""


Source: TypeAlias = Image | bytes | Path


@dataclass(frozen=True, slots=True)
class Score:
    """A class and its calibrated probability."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer for one image; `error` says why there is none."""

    image_id: str
    label: str = ""
    confidence: float = 0.0
    top: tuple[Score, ...] = ()
    ood_score: float = 0.0
    is_ood: bool | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Classified:
    """The answers for the images of one request, in their order, by one version."""

    version: int
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Embedding:
    """The unit embedding of one image; `error` says why there is none."""

    image_id: str
    embedding: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embeddings of the images of one request, in their order, by one version."""

    version: int
    results: tuple[Embedding, ...]


@dataclass(frozen=True, slots=True)
class Serving:
    """The version that serves."""

    version: int
    model: str
    method: str
    classes: tuple[str, ...]


def image_of(source: Source) -> Image:
    """The image that is meant."""
    if isinstance(source, Image):
        return source
    return Image(source.read_bytes() if isinstance(source, Path) else source)


def classified(body: Any) -> Classified:
    """The answer of POST /v1/classify."""
    return Classified(body["model_version"], tuple(_result(each) for each in body["results"]))


def _result(each: Any) -> Result:
    if "error" in each:
        return Result(each["image_id"], error=each["error"]["message"])
    top = tuple(Score(**score) for score in each["top"])
    return Result(
        each["image_id"], each["label"], each["confidence"], top, each["ood_score"], each["is_ood"]
    )


def embedded(body: Any) -> Embedded:
    """The answer of POST /v1/embed."""
    results = tuple(
        Embedding(each["image_id"], error=each["error"]["message"])
        if "error" in each
        else Embedding(each["image_id"], tuple(each["embedding"]))
        for each in body["results"]
    )
    return Embedded(body["model_version"], results)


def serving(body: Any) -> Serving:
    """The answer of GET /v1/model."""
    return Serving(body["model_version"], body["model"], body["method"], tuple(body["classes"]))
