"""What every measure of answers refuses: other shapes, no image, a NaN, a label that is no class.

It knows nothing of what is measured.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from adaptsvc.types import Float64

Labels: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float64]


def checked_answers(confidence: Float64, correct: Float64) -> tuple[Float64, Float64]:
    """Both as float64 (N,), N >= 1, all finite.

    Raises:
        ValueError: they are not.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if confidence.shape != correct.shape or confidence.ndim != 1 or len(confidence) == 0:
        raise ValueError(
            f"got confidence {confidence.shape} and correct {correct.shape}; expected (N,) twice, N >= 1"
        )
    if not (np.isfinite(confidence).all() and np.isfinite(correct).all()):
        raise ValueError("got a NaN or an Inf; expected finite values: leave that image out")
    return confidence, correct


def checked_labels(logits: Float64, labels: Labels) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Logits or probabilities (N, C) as float64 and labels (N,) as int64, N >= 1.

    Raises:
        ValueError: shapes that do not fit, a label outside 0..C-1, or a value that is not finite.
    """
    logits, index = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if logits.ndim != 2 or index.shape != logits.shape[:1] or logits.size == 0:
        raise ValueError(
            f"got {logits.shape} and labels {index.shape}; expected (N, C) and (N,), N >= 1"
        )
    if not np.isfinite(logits).all():
        raise ValueError("got a NaN or an Inf; expected finite values: leave that image out")
    if index.min() < 0 or index.max() >= logits.shape[1]:
        raise ValueError(
            f"got labels {index.min()}..{index.max()}; expected 0..{logits.shape[1] - 1}, "
            "the index of a class"
        )
    return logits, index
