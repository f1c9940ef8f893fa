"""What one version has that another has not; it knows nothing of stores."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from adaptsvc.types import Float32
from adaptsvc.versions.store import Version

FIELDS = (
    "base",
    "model",
    "method",
    "parent",
    "prompt",
    "logit_scale",
    "calibration",
    "ood",
    "seed",
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Values(_Record):
    """A value before and after; None where there is none."""

    before: object
    after: object


class TensorChange(_Record):
    """How far a parameter went.

    Attributes:
        relative: the norm of the change over the norm of the parameter before.
        largest: the largest change of one entry.
    """

    relative: float
    largest: float


class Difference(_Record):
    """From one version to another.

    Attributes:
        before: a version.
        after: another.
        fields: what their manifests say otherwise.
        metrics: every figure that one of them has and that is not the same.
        classes_added: class names that only the second has.
        classes_removed: class names that only the first has.
        class_similarity: the cosine of the embeddings of each class that both have.
        parameters: how far each parameter went that both change of their base.
        parameters_added: those that only the second changes.
        parameters_removed: those that only the first changes.
    """

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


def difference(first: Version, second: Version) -> Difference:
    """What changed from the first to the second."""
    before, after = first.manifest, second.manifest
    said = before.model_dump(mode="json"), after.model_dump(mode="json")
    old, new = set(first.delta), set(second.delta)
    return Difference(
        before=before.id,
        after=after.id,
        fields=_changed({k: said[0][k] for k in FIELDS}, {k: said[1][k] for k in FIELDS}),
        metrics=_changed(said[0]["metrics"], said[1]["metrics"]),
        classes_added=tuple(c for c in after.classes if c not in before.classes),
        classes_removed=tuple(c for c in before.classes if c not in after.classes),
        class_similarity=_similarity(first, second),
        parameters={
            name: change(first.delta[name], second.delta[name])
            for name in sorted(old & new)
            if first.delta[name].shape == second.delta[name].shape
        },
        parameters_added=tuple(sorted(new - old)),
        parameters_removed=tuple(sorted(old - new)),
    )


def change(before: Float32, after: Float32) -> TensorChange:
    """How far a tensor went.

    Example:
        >>> change(np.array([3, 4], np.float32), np.array([3, 5], np.float32))
        TensorChange(relative=0.2, largest=1.0)
    """
    moved = after.astype(np.float64) - before.astype(np.float64)
    length = float(np.linalg.norm(before.astype(np.float64)))
    relative = float(np.linalg.norm(moved)) / max(length, float(np.finfo(np.float32).tiny))
    return TensorChange(relative=relative, largest=float(np.abs(moved).max(initial=0.0)))


def _changed(before: dict[str, object], after: dict[str, object]) -> dict[str, Values]:
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: Values(before=before.get(name), after=after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }


def _similarity(first: Version, second: Version) -> dict[str, float]:
    a, b = first.head.class_embeddings, second.head.class_embeddings  # (C, D)
    if a.shape[1] != b.shape[1]:  # of another model
        return {}
    old, new = first.manifest.classes, second.manifest.classes
    shared = [name for name in new if name in old]
    return {name: _cosine(a[old.index(name)], b[new.index(name)]) for name in shared}


def _cosine(a: Float32, b: Float32) -> float:
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / max(lengths, float(np.finfo(np.float32).tiny))
