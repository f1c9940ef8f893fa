"""What refusing the least certain answers buys; numpy only, it knows nothing of models or versions.

Equally confident images are never told apart: each measure is what any order of them gives on average.
"""

from __future__ import annotations

import numpy as np

from adaptsvc.trust.calibration import average_ties
from adaptsvc.trust.checks import checked_answers
from adaptsvc.types import Float64


def risk_coverage(confidence: Float64, correct: Float64) -> tuple[Float64, Float64]:
    """Share of errors among the k surest images, for every k.

    Args:
        confidence: (N,), any scale on which more is surer.
        correct: (N,), 1 where the prediction was right, else 0.

    Returns:
        Coverage (N,), k/N for k = 1..N, and risk (N,) in [0, 1].

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: El-Yaniv & Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010.

    Example:
        >>> coverage, risk = risk_coverage(np.array([0.9, 0.6]), np.array([1.0, 0.0]))
        >>> coverage.tolist(), risk.tolist()
        ([0.5, 1.0], [0.0, 0.5])
    """
    confidence, correct = checked_answers(confidence, correct)
    wrong = 1.0 - average_ties(confidence, correct)[np.argsort(-confidence, kind="stable")]
    answered = np.arange(1, len(wrong) + 1)
    return answered / len(wrong), np.cumsum(wrong) / answered


def area_under_risk_coverage(confidence: Float64, correct: Float64) -> float:
    """AURC, the mean of the risk over every coverage 1/N..1; lower is better, 0 without any error.

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: Geifman et al., "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019.

    Example:
        >>> area_under_risk_coverage(np.array([0.9, 0.6]), np.array([1.0, 0.0]))
        0.25
    """
    _, risk = risk_coverage(confidence, correct)
    return float(risk.mean())


def accuracy_when_refusing(confidence: Float64, correct: Float64, *, share: float) -> float:
    """Accuracy on the rest when the least confident share of the images is refused.

    Args:
        confidence: (N,), any scale on which more is surer.
        correct: (N,), 1 where the prediction was right, else 0.
        share: refused, in [0, 1); rounded down to whole images, so one at least is answered.

    Raises:
        ValueError: a share outside [0, 1), no image, shapes that differ, or a value that is not finite.

    Example:
        >>> accuracy_when_refusing(np.array([0.9, 0.6]), np.array([1.0, 0.0]), share=0.5)
        1.0
    """
    if not 0 <= share < 1:
        raise ValueError(f"got a share of {share} to refuse; expected [0, 1)")
    _, risk = risk_coverage(confidence, correct)
    # 0.29 * 100 is 28.999999999999996 in floating point, and means 29.
    refused = int(share * len(risk) + 1e-9)
    return float(1.0 - risk[max(len(risk) - 1 - refused, 0)])


def acceptance_curve(known: Float64, unknown: Float64) -> tuple[Float64, Float64]:
    """Shares of known and of unknown images that each threshold on an OOD score accepts.

    Args:
        known: (N,) scores of images of known classes, higher for stranger ones (`adaptsvc.trust.ood`).
        unknown: (M,) scores of the others.

    Returns:
        Share of the known accepted and share of the unknown accepted, both (T,) and never falling, for no
        image accepted and for each of the T - 1 different scores as threshold; the last point is (1, 1).

    Raises:
        ValueError: a group without images, or a score that is not finite.

    Example:
        >>> known, unknown = acceptance_curve(np.array([0.1, 0.3]), np.array([0.2, 0.4]))
        >>> known.tolist(), unknown.tolist()
        ([0.0, 0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5, 1.0])
    """
    if len(known) == 0 or len(unknown) == 0:
        raise ValueError(f"got {len(known)} known and {len(unknown)} unknown scores; both need 1")
    every = np.concatenate([known, unknown])
    if not np.isfinite(every).all():
        raise ValueError("got a NaN or an Inf; expected finite scores: leave that image out")
    thresholds = np.concatenate([[-np.inf], np.unique(every)])
    return _share_at_most(known, thresholds), _share_at_most(unknown, thresholds)


def _share_at_most(scores: Float64, thresholds: Float64) -> Float64:
    shares: Float64 = np.searchsorted(np.sort(scores), thresholds, side="right") / len(scores)
    return shares
