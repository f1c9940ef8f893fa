"""Classifying files from the command line, here or by a running service; it knows nothing of printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from adaptsvc.config import Settings
from adaptsvc.errors import AdaptsvcError, ImageError
from adaptsvc.images import ImageLimits, decode
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import Predictor, build
from adaptsvc.state import open_state

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    """The answer for one file; `error` says why there is none."""

    file: str
    label: str = ""
    confidence: float = 0.0
    ood_score: float = 0.0
    is_ood: bool | None = None
    version: int = -1
    error: str = ""


def current_predictor(settings: Settings) -> Predictor | None:
    """The version that serves, if there is one; torch is not needed for it."""
    state = open_state(settings)
    store, current = state.store, state.lasting.read().version
    if current is None:
        return None
    version = store.load(current)
    base = store.base(version.manifest.base)
    return build(base, version, Runtime(settings.serve.device, settings.serve.threads))


def classify_here(files: Sequence[Path], predictor: Predictor, settings: Settings) -> list[Row]:
    """One row per file, by a predictor in this process."""
    images = settings.images
    limits = ImageLimits(images.max_bytes, images.max_pixels, images.max_side)
    return [_here(file, predictor, limits) for file in files]


def classify_by(url: str, files: Sequence[Path], *, key: str = "") -> list[Row]:
    """One row per file, by a running service.

    Args:
        url: of the service.
        files: images.
        key: one of its API keys, if it has any.

    Raises:
        AdaptsvcError: the service does not answer.
    """
    headers = {"x-api-key": key} if key else {}
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, headers=headers) as client:
        return [_by(client, file) for file in files]


def _here(file: Path, predictor: Predictor, limits: ImageLimits) -> Row:
    try:
        pixels = decode(file.read_bytes(), predictor.base.preprocess, limits)
    except (OSError, ImageError) as exc:
        return Row(str(file), error=str(exc))
    answer = predictor.answer(pixels[None], 1)
    best = answer.predictions[0]
    return Row(str(file), best.label, best.confidence, best.ood_score, best.is_ood, answer.version)


def _by(client: httpx.Client, file: Path) -> Row:
    try:
        data = file.read_bytes()
    except OSError as exc:
        return Row(str(file), error=str(exc))
    try:
        response = client.post(
            "/v1/classify",
            params={"top_k": 1},
            content=data,
            headers={"content-type": "application/octet-stream"},
        )
        body: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError) as exc:
        raise AdaptsvcError(
            f"{client.base_url} gave no answer we can read: {exc}; is 'adaptsvc up' running there?"
        ) from exc
    if response.is_error:
        return Row(str(file), error=str(body.get("error", {}).get("message", body)))
    best = body["results"][0]
    return Row(
        str(file),
        best["label"],
        best["confidence"],
        best["ood_score"],
        best["is_ood"],
        body["model_version"],
    )
