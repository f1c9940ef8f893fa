"""The figures of one cell: logits and labels of the test half to accuracy, AUROC, calibration.

It knows nothing of where the logits come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaptsvc.trust import ood
from adaptsvc.trust.calibration import (
    expected_calibration_error,
    negative_log_likelihood,
    softmax,
)
from adaptsvc.types import Float64

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Rule:
    """How logits become answers.

    Attributes:
        logit_scale: s.
        temperature: confidence is softmax(logits / temperature).
        ood_score: a name in `adaptsvc.trust.ood.SCORES`.
    """

    logit_scale: float
    temperature: float
    ood_score: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model answered, and the figures of it.

    Attributes:
        figures: by name; those an absence of unknown images leaves undefined are left out.
        confidence: (N,) calibrated, in (0, 1].
        prediction: (N,) index into the known classes.
        ood_score: (N,) higher is less like a known class.
    """

    figures: dict[str, float]
    confidence: Float64
    prediction: npt.NDArray[np.int64]
    ood_score: Float64


def measure(logits: Float64, labels: npt.NDArray[np.int64], rule: Rule) -> Measured:
    """The figures of logits (N, C) against labels (N,), UNKNOWN where the class is none of the C.

    accuracy: mean over the known classes of each one's accuracy. auroc: unknown against known images by
    1 - max probability, before the temperature, as the paper has it; auroc_score by the service's score.
    h: harmonic mean of accuracy and auroc. ece, nll: of the known images, after the temperature.

    Raises:
        ValueError: no image of a known class.
    """
    known = labels != UNKNOWN
    if not known.any():
        raise ValueError("got no image of a known class; expected at least 1")
    probabilities = softmax(logits, rule.temperature)
    confidence, prediction = probabilities.max(axis=-1), logits.argmax(axis=-1)
    score = ood.SCORES[rule.ood_score](logits, rule.logit_scale)
    correct = (prediction == labels)[known]
    accuracy = mean_class_accuracy(correct, labels[known])
    figures = {
        "accuracy": accuracy,
        "ece": expected_calibration_error(confidence[known], correct.astype(np.float64)),
        "nll": negative_log_likelihood(logits[known], labels[known], rule.temperature),
        "temperature": rule.temperature,
    }
    if not known.all():
        msp = ood.msp(logits, rule.logit_scale)
        figures["auroc"] = ood.auroc(msp[known], msp[~known])
        figures["auroc_score"] = ood.auroc(score[known], score[~known])
        figures["h"] = harmonic_mean(accuracy, figures["auroc"])
    return Measured(figures, confidence, prediction, score)


def mean_class_accuracy(correct: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> float:
    """Mean of the accuracies of the classes that are there.

    Example:
        >>> mean_class_accuracy(np.array([True, True, True, False]), np.array([0, 0, 0, 1]))
        0.5
    """
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b) of two shares, 0 where both are.

    Example:
        >>> harmonic_mean(1.0, 0.5)
        0.6666666666666666
    """
    total = first + second
    return 2 * first * second / total if total else 0.0
