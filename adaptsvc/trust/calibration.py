"""How well confidence matches accuracy; numpy only, it knows nothing of models or versions."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar

from adaptsvc.types import Float64

BINS = 15
TEMPERATURE_BOUNDS = (0.05, 20.0)


def softmax(logits: Float64, temperature: float = 1.0) -> Float64:
    """Probabilities (N, C) of logits (N, C) divided by a temperature above 0."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    exponent = np.exp(scaled)
    result: Float64 = exponent / exponent.sum(axis=-1, keepdims=True)
    return result


def expected_calibration_error(confidence: Float64, correct: Float64, bins: int = BINS) -> float:
    """ECE over equal-width confidence bins.

    Σ_b n_b/N · |accuracy_b - confidence_b|

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,), 1 where the prediction was right, else 0.
        bins: how many.

    Returns:
        In [0, 1].

    Raises:
        ValueError: no image, or shapes that differ.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Example:
        >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([1.0, 0.0]))
        0.4
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    if confidence.shape != correct.shape or confidence.ndim != 1 or len(confidence) == 0:
        raise ValueError(
            f"got confidence {confidence.shape} and correct {correct.shape}; expected (N,) twice, N >= 1"
        )
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=correct - confidence, minlength=bins)
    return round(float(np.abs(gap).sum() / len(confidence)), 12)


def negative_log_likelihood(logits: Float64, labels: Float64, temperature: float = 1.0) -> float:
    """Mean NLL in nats of labels (N,) under softmax(logits / T), logits (N, C)."""
    scaled = np.asarray(logits, np.float64) / temperature
    peak = scaled.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(scaled - peak).sum(axis=-1)) + peak[:, 0]
    chosen = scaled[np.arange(len(scaled)), np.asarray(labels, int)]
    return float((log_total - chosen).mean())


def temperature_for_confidence(logits: Float64, target: float) -> float:
    """The temperature at which the mean largest probability of unlabeled images is `target`.

    Adaptation sharpens: the same images look surer than before, right or wrong. Holding their mean
    confidence where it was keeps a round without labels from inflating it.

    Args:
        logits: (N, C), N at least 1.
        target: mean confidence wanted, in (1/C, 1).

    Returns:
        T within TEMPERATURE_BOUNDS, the nearest bound where the target is out of reach.
    """

    low, high = TEMPERATURE_BOUNDS

    def miss(log_temperature: float) -> float:
        confidence = softmax(logits, float(np.exp(log_temperature))).max(axis=-1).mean()
        return float((confidence - target) ** 2)

    found = minimize_scalar(miss, bounds=(math.log(low), math.log(high)), method="bounded")
    return float(np.exp(found.x))
