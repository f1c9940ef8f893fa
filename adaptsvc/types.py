"""Frozen records that cross rooms; it knows nothing of where they come from or go to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
UInt8: TypeAlias = npt.NDArray[np.uint8]
Tensors: TypeAlias = dict[str, Float32]
WeightTemperature: TypeAlias = float | Literal["logit_scale"]  # of UEO's sample weights
Norms: TypeAlias = dict[str, Float32 | npt.NDArray[np.float16]]  # as a graph has them


@dataclass(frozen=True, slots=True)
class Task:
    """What is told apart: class names, in the order of the head's rows, and the template they fill."""

    classes: tuple[str, ...]
    prompt: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        content = json.dumps([self.classes, self.prompt])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """One class name and its calibrated probability in [0, 1]."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image.

    Attributes:
        label: the most probable class name.
        confidence: its calibrated probability in [0, 1].
        top: the most probable classes, best first.
        ood_score: higher means less like any known class.
        is_ood: whether the score is over the version's threshold; None while it has none.
    """

    label: str
    confidence: float
    top: tuple[ClassProbability, ...]
    ood_score: float
    is_ood: bool | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers for one batch, with the one version that made all of them."""

    version: int
    predictions: tuple[Prediction, ...]
