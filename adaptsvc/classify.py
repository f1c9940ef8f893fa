"""Classifying files from the command line, here or by a running service; it knows nothing of printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptsvc.client import Client, Options
from adaptsvc.config import Settings
from adaptsvc.errors import ImageError, ServiceError
from adaptsvc.images import ImageLimits, decode
from adaptsvc.serving.encoder import runtime_of
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
    return build(base, version, runtime_of(settings.serve, settings.serve.call_threads))


def current_classes(settings: Settings) -> tuple[str, ...]:
    """The classes of what serves; those of the settings where nothing does."""
    state = open_state(settings)
    current = state.lasting.read().version
    return settings.classes if current is None else state.store.manifest(current).classes


def classify_here(files: Sequence[Path], predictor: Predictor, settings: Settings) -> list[Row]:
    """One row per file, by a predictor in this process."""
    limits = ImageLimits.of(settings.images)
    return [_here(file, predictor, limits) for file in files]


def classify_by(url: str, files: Sequence[Path], *, key: str = "") -> list[Row]:
    """One row per file, by a running service.

    Args:
        url: of the service.
        files: images.
        key: one of its API keys, if it has any.

    Raises:
        ServiceError: the service does not answer.
    """
    headers = {"x-api-key": key} if key else {}
    with Client(url, Options(timeout_s=TIMEOUT_S, headers=headers)) as client:
        try:
            return [_by(client, file) for file in files]
        except ServiceError as exc:
            raise ServiceError(f"{url}: {exc}; is 'adaptsvc up' running there?") from exc


def _here(file: Path, predictor: Predictor, limits: ImageLimits) -> Row:
    try:
        pixels = decode(file.read_bytes(), predictor.base.preprocess, limits)
    except (OSError, ImageError) as exc:
        return Row(str(file), error=str(exc))
    answer = predictor.answer(pixels[None], 1)
    best = answer.predictions[0]
    return Row(str(file), best.label, best.confidence, best.ood_score, best.is_ood, answer.version)


def _by(client: Client, file: Path) -> Row:
    try:
        answer = client.classify(file, top_k=1)
    except OSError as exc:
        return Row(str(file), error=str(exc))
    except ServiceError as exc:
        if not exc.status:
            raise
        return Row(str(file), error=str(exc))
    best = answer.results[0]
    return Row(str(file), best.label, best.confidence, best.ood_score, best.is_ood, answer.version)
