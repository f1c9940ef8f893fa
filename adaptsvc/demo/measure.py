"""The demo's figures: answers of one version on held-out images to accuracy, ECE and OOD AUROC.

It knows nothing of where the answers come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptsvc.demo.data import CLASSES, UNKNOWN, Picture
from adaptsvc.trust.calibration import expected_calibration_error
from adaptsvc.trust.ood import auroc
from adaptsvc.types import Float64


@dataclass(frozen=True, slots=True)
class Reply:
    """The service's answer for one image.

    Attributes:
        version: the version that answered.
        label: index into CLASSES.
        confidence: in [0, 1].
        ood_score: higher is less like any known class.
    """

    version: int
    label: int
    confidence: float
    ood_score: float

    @classmethod
    def of(cls, version: int, result: dict[str, object]) -> Reply:
        """From one entry of the service's JSON."""
        return cls(
            version,
            CLASSES.index(str(result["label"])),
            float(str(result["confidence"])),
            float(str(result["ood_score"])),
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """One version on the held-out images.

    Attributes:
        version: which.
        accuracy: over the known images, in [0, 1].
        ece: expected calibration error over the known images, 15 bins.
        ood_auroc: unknown against known images.
        confidence: (N,) of the known images.
        correct: (N,) 1 where right.
        known_scores: (N,) OOD scores.
        unknown_scores: (M,) OOD scores.
    """

    version: int
    accuracy: float
    ece: float
    ood_auroc: float
    confidence: Float64
    correct: Float64
    known_scores: Float64
    unknown_scores: Float64


def score(pictures: Sequence[Picture], replies: Sequence[Reply]) -> Scores:
    """The figures of replies that all come from one version, picture by picture."""
    pairs = list(zip(pictures, replies, strict=True))
    known = [(picture, reply) for picture, reply in pairs if picture.label != UNKNOWN]
    unknown = [reply for picture, reply in pairs if picture.label == UNKNOWN]
    confidence = np.array([reply.confidence for _, reply in known])
    correct = np.array([float(reply.label == picture.label) for picture, reply in known])
    known_scores = np.array([reply.ood_score for _, reply in known])
    unknown_scores = np.array([reply.ood_score for reply in unknown])
    return Scores(
        version=replies[-1].version,
        accuracy=float(correct.mean()),
        ece=expected_calibration_error(confidence, correct),
        ood_auroc=auroc(known_scores, unknown_scores),
        confidence=confidence,
        correct=correct,
        known_scores=known_scores,
        unknown_scores=unknown_scores,
    )
