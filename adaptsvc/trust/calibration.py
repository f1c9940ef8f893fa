"""How well confidence matches accuracy; numpy and scipy only, it knows nothing of models or versions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from adaptsvc.trust.checks import Labels, checked_answers, checked_labels
from adaptsvc.types import Float64

BINS = 15
DIAGRAM_BINS = 10
TEMPERATURE_BOUNDS = (0.05, 20.0)


def softmax(logits: Float64, temperature: float = 1.0) -> Float64:
    """Probabilities (N, C) of logits (N, C) divided by a temperature above 0."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    exponent = np.exp(scaled)
    result: Float64 = exponent / exponent.sum(axis=-1, keepdims=True)
    return result


def average_ties(confidence: Float64, correct: Float64) -> Float64:
    """`correct` (N,) where equally confident images share their mean: what their order gives on average."""
    _, group = np.unique(confidence, return_inverse=True)
    shared: Float64 = (np.bincount(group, weights=correct) / np.bincount(group))[group]
    return shared


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
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Example:
        >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([1.0, 0.0]))
        0.4
    """
    confidence, correct = checked_answers(confidence, correct)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=correct - confidence, minlength=bins)
    return round(float(np.abs(gap).sum() / len(confidence)), 12)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images of one bar of a reliability diagram.

    Attributes:
        images: how many, at least 1.
        confidence: their mean, in [0, 1].
        accuracy: share that was right, in [0, 1].
    """

    images: int
    confidence: float
    accuracy: float


def reliability(
    confidence: Float64, correct: Float64, bins: int = DIAGRAM_BINS
) -> tuple[ReliabilityBin, ...]:
    """Accuracy against confidence in equal-width bins ((b - 1)/bins, b/bins], the empty ones left out.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,), 1 where the prediction was right, else 0.
        bins: how many.

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: DeGroot & Fienberg, "The Comparison and Evaluation of Forecasters", 1983.

    Example:
        >>> reliability(np.array([0.75, 0.25, 0.25]), np.array([1.0, 1.0, 0.0]), bins=2)[0]
        ReliabilityBin(images=2, confidence=0.25, accuracy=0.5)
    """
    confidence, correct = checked_answers(confidence, correct)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    members = [index == each for each in np.unique(index)]
    return tuple(
        ReliabilityBin(int(m.sum()), float(confidence[m].mean()), float(correct[m].mean()))
        for m in members
    )


def adaptive_calibration_error(confidence: Float64, correct: Float64, bins: int = BINS) -> float:
    """ECE over bins that hold equally many images, or one more; equally confident images count alike.

    Equal-width bins are nearly empty where confidence is rare; these never are.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,), 1 where the prediction was right, else 0.
        bins: how many; fewer images than bins make one bin each.

    Returns:
        In [0, 1].

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: Nguyen & O'Connor, "Posterior Calibration and Exploratory Analysis for NLP Models", EMNLP 2015.

    Example:
        >>> adaptive_calibration_error(np.array([0.7, 0.9, 0.8]), np.array([1.0, 1.0, 1.0]), bins=1)
        0.2
    """
    confidence, correct = checked_answers(confidence, correct)
    gap = average_ties(confidence, correct) - confidence
    ranked = gap[np.argsort(confidence, kind="stable")]
    parts = np.array_split(ranked, min(bins, len(ranked)))
    return round(float(sum(abs(part.sum()) for part in parts) / len(gap)), 12)


def brier_score(probabilities: Float64, labels: Labels) -> float:
    """Mean squared distance of probabilities (N, C) to the one-hot labels (N,).

    1/N Σ_i Σ_k (p_ik - [k = y_i])²

    Returns:
        In [0, 2].

    Raises:
        ValueError: shapes that do not fit, a label outside 0..C-1, or a value that is not finite.

    Reference: Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.

    Example:
        >>> brier_score(np.array([[0.5, 0.5]]), np.array([0]))
        0.5
    """
    probabilities, chosen = checked_labels(probabilities, labels)
    distance = probabilities - np.eye(probabilities.shape[1])[chosen]
    return float((distance**2).sum(axis=-1).mean())


def image_nll(logits: Float64, labels: Labels, temperature: float = 1.0) -> Float64:
    """NLL (N,) in nats of each label (N,) under softmax(logits / T), logits (N, C)."""
    scaled = np.asarray(logits, np.float64) / temperature
    peak = scaled.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(scaled - peak).sum(axis=-1)) + peak[:, 0]
    result: Float64 = log_total - scaled[np.arange(len(scaled)), np.asarray(labels, int)]
    return result


def negative_log_likelihood(logits: Float64, labels: Labels, temperature: float = 1.0) -> float:
    """Mean NLL in nats of labels (N,) under softmax(logits / T), logits (N, C)."""
    return float(image_nll(logits, labels, temperature).mean())


def fit_temperature(logits: Float64, labels: Labels) -> float:
    """The temperature of least NLL on labeled images; it never changes the chosen class.

    The NLL is convex in β = 1/T with the slope  1/N Σ_i (Σ_k p_ik z_ik - z_iy),  so its minimum is where the
    slope crosses 0, or at the bound it points to.

    Args:
        logits: (N, C), before any temperature, N at least 1; few labels say little.
        labels: (N,) in 0..C-1.

    Returns:
        T within TEMPERATURE_BOUNDS. All right gives the lower bound, worse than chance the upper one.

    Raises:
        ValueError: shapes that do not fit, a label outside 0..C-1, or a value that is not finite.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    logits, chosen = checked_labels(logits, labels)
    # Logits less their peak keep the slope of huge ones exact.
    logits = logits - logits.max(axis=-1, keepdims=True)
    of_label = logits[np.arange(len(logits)), chosen]

    def slope(temperature: float) -> float:
        return float(((softmax(logits, temperature) * logits).sum(axis=-1) - of_label).mean())

    return _temperature_at(slope, 0.0)


@dataclass(frozen=True, slots=True)
class Refit:
    """What came of fitting the temperature anew.

    Attributes:
        temperature: the one to use from now on.
        replaced: whether it is the new one.
        nll_before: in nats on the held-out part, at the temperature so far.
        nll_after: the same at the fitted temperature, used or not.
    """

    temperature: float
    replaced: bool
    nll_before: float
    nll_after: float


def refit_temperature(
    logits: Float64, labels: Labels, *, current: float, held_out: npt.NDArray[np.bool_]
) -> Refit:
    """Fit on one part of the labels and take the result only if it is better on the other.

    Args:
        logits: (N, C), before any temperature.
        labels: (N,) in 0..C-1.
        current: the temperature so far, above 0.
        held_out: (N,), True where a label judges instead of fitting; both kinds are needed.

    Raises:
        ValueError: one part is empty, shapes that do not fit, a label outside 0..C-1, or a value not finite.
    """
    logits, chosen = checked_labels(logits, labels)
    if held_out.shape != chosen.shape or held_out.all() or not held_out.any():
        raise ValueError(
            f"got held_out {held_out.shape} with {int(held_out.sum())} True of {len(chosen)} labels; "
            "expected (N,) with some to fit on and some to judge by"
        )
    fitted = fit_temperature(logits[~held_out], chosen[~held_out])
    before = negative_log_likelihood(logits[held_out], chosen[held_out], current)
    after = negative_log_likelihood(logits[held_out], chosen[held_out], fitted)
    return Refit(fitted if after < before else current, after < before, before, after)


def temperature_for_confidence(logits: Float64, target: float) -> float:
    """The temperature at which the mean largest probability of unlabeled images is `target`.

    Adaptation sharpens: the same images look surer than before, right or wrong. Holding their mean
    confidence where it was keeps a round without labels from inflating it. With the zero-shot model's mean
    confidence as target it assumes that adaptation changed the accuracy little; with an estimate of the
    accuracy (`adaptsvc.trust.estimate`), that the estimate is right.

    Args:
        logits: (N, C), N at least 1.
        target: mean confidence wanted, in (1/C, 1).

    Returns:
        T within TEMPERATURE_BOUNDS, the nearest bound where the target is out of reach.
    """
    return _temperature_at(
        lambda temperature: float(softmax(logits, temperature).max(axis=-1).mean()), target
    )


def softening_temperature(logits: Float64, target: float) -> float:
    """`temperature_for_confidence`, but never under 1: it takes confidence back and gives none.

    Where adaptation left a model less sure than the target, as it does where the zero-shot model was sure
    and wrong, that is kept. docs/methods.md has both measured.

    Args:
        logits: (N, C), N at least 1.
        target: mean confidence to hold, in (1/C, 1).
    """
    return max(1.0, temperature_for_confidence(logits, target))


def temperature_for_entropy(logits: Float64, target_nats: float) -> float:
    """The temperature at which the mean entropy of unlabeled images is `target_nats`.

    With the zero-shot model's mean entropy as target it undoes, on average, what entropy minimisation did. It
    assumes what `temperature_for_confidence` does, and minds the whole distribution: mass that moved
    between the classes that were not chosen counts as well.

    Args:
        logits: (N, C), N at least 1.
        target_nats: mean entropy wanted, in (0, log C).

    Returns:
        T within TEMPERATURE_BOUNDS, the nearest bound where the target is out of reach.
    """

    def sharpness(temperature: float) -> float:
        p = softmax(logits, temperature)
        return float((p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1).mean())

    return _temperature_at(sharpness, -target_nats)


def _temperature_at(falling: Callable[[float], float], target: float) -> float:
    """Where a measure that falls with the temperature crosses the target, else the nearest bound."""
    low, high = TEMPERATURE_BOUNDS
    if falling(high) >= target:
        return high
    if falling(low) <= target:
        return low
    crossing = brentq(
        lambda log_t: falling(math.exp(log_t)) - target, math.log(low), math.log(high)
    )
    return math.exp(crossing)
