"""How accurate a version may be on images without labels; numpy only.

It knows nothing of models, versions or streams. No estimate without labels can be right on every stream; each
function says what it takes for granted.

| function | needs labels | takes for granted |
|---|---|---|
| `average_confidence` | no | the version is calibrated on these images |
| `agreement` | no | two models learned independently, together calibrated class by class |
| `difference_of_confidences` | of a reference set | overconfidence here as on the reference set |
| `thresholded_confidence` | of a reference set | the same confidence parts right from wrong here and there |
| `estimate_accuracy` | no | the zero-shot model is calibrated on these images |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaptsvc.trust.checks import checked_answers
from adaptsvc.types import Float64


@dataclass(frozen=True, slots=True)
class AccuracyEstimate:
    """An accuracy that nobody has measured.

    Attributes:
        accuracy: in [0, 1].
        low: the least that the agreement with the zero-shot model allows, in [0, 1].
        high: the most, in [0, 1].
        agreement: share of equal choices with the zero-shot model, in [0, 1].
        zero_shot: that of the zero-shot model, on which it rests, in [0, 1].
    """

    accuracy: float
    low: float
    high: float
    agreement: float
    zero_shot: float

    @property
    def gain(self) -> float:
        """Over the zero-shot model; on these images, whatever the labels, within ±(1 - agreement)."""
        return self.accuracy - self.zero_shot


def estimate_accuracy(version: Float64, zero_shot: Float64) -> AccuracyEstimate:
    """The version's average confidence, held to what its agreement with the zero-shot model allows.

    Two models that choose alike on a share a of the images differ in accuracy by 1 - a at most, whatever the
    labels are. So with the zero-shot model's accuracy put at its average confidence AC₀,

        accuracy = clip(AC, AC₀ - (1 - a), AC₀ + (1 - a)).

    Average confidence alone follows every sharpening of an adapted model; here only as far as its choices
    moved. The band is ours; it is exact when AC₀ is, and as wrong as AC₀ otherwise. A version whose
    temperature holds the mean confidence at the zero-shot model's has AC = AC₀: then the estimate is AC₀, and
    only the band says what may have changed.

    Args:
        version: (N, C) calibrated probabilities of the version that serves, N at least 1.
        zero_shot: (N, C) calibrated probabilities of the frozen zero-shot model on the same images.

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.
    """
    equal = agreement(version, zero_shot)
    anchor = average_confidence(zero_shot)
    low, high = max(0.0, anchor - (1 - equal)), min(1.0, anchor + (1 - equal))
    accuracy = min(max(average_confidence(version), low), high)
    return AccuracyEstimate(accuracy, low, high, equal, anchor)


def average_confidence(probabilities: Float64) -> float:
    """AC: the mean largest probability of calibrated probabilities (N, C).

    Raises:
        ValueError: no image, or a value that is not finite.

    Reference: Hendrycks & Gimpel, ICLR 2017; as an estimator, Garg et al., ICLR 2022.

    Example:
        >>> average_confidence(np.array([[0.75, 0.25], [0.0, 1.0]]))
        0.875
    """
    return float(_checked(probabilities).max(axis=-1).mean())


def agreement(first: Float64, second: Float64) -> float:
    """Share of images for which two models choose the same class, from (N, C) of each.

    For two models learned independently whose ensemble is calibrated class by class it equals, on average,
    their accuracy (the generalized disagreement equality). A version and the zero-shot model it comes from
    are not independent: they share errors, so between them it tells how far the choices moved, and lies
    above the accuracy.

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: Jiang et al., "Assessing Generalization of SGD via Disagreement", ICLR 2022.

    Example:
        >>> agreement(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[0.7, 0.3], [0.2, 0.8]]))
        0.5
    """
    if first.shape != second.shape:
        raise ValueError(
            f"got {first.shape} and {second.shape}; expected (N, C) twice, of the same images"
        )
    return float((_checked(first).argmax(axis=-1) == _checked(second).argmax(axis=-1)).mean())


def difference_of_confidences(window: Float64, reference: Float64, correct: Float64) -> float:
    """DoC: accuracy on the reference set, moved by the change of the average confidence.

    accuracy_reference + AC_window - AC_reference, within [0, 1]

    Args:
        window: (N,) confidence on images without labels.
        reference: (M,) confidence of the same version on labeled images.
        correct: (M,), 1 where the prediction was right, else 0.

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: Guillory et al., "Predicting with Confidence on Unseen Distributions", ICCV 2021.

    Example:
        >>> difference_of_confidences(np.array([0.5]), np.array([0.75]), np.array([1.0]))
        0.75
    """
    window, _ = checked_answers(window, window)
    reference, correct = checked_answers(reference, correct)
    return float(np.clip(correct.mean() + window.mean() - reference.mean(), 0.0, 1.0))


def confidence_threshold(reference: Float64, correct: Float64) -> float:
    """The confidence under which lie as many reference images as were wrong; inf when all were.

    Args:
        reference: (M,) confidence on labeled images; any score on which more is surer.
        correct: (M,), 1 where the prediction was right, else 0.

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Example:
        >>> confidence_threshold(np.array([0.9, 0.6, 0.5]), np.array([1.0, 1.0, 0.0]))
        0.6
    """
    reference, correct = checked_answers(reference, correct)
    wrong = round(float((1 - correct).sum()))
    return float(np.append(np.sort(reference), np.inf)[wrong])


def thresholded_confidence(window: Float64, reference: Float64, correct: Float64) -> float:
    """ATC: the share of images at least as confident as the threshold that fits the reference set.

    Args:
        window: (N,) confidence on images without labels.
        reference: (M,) confidence of the same version, at the same temperature, on labeled images.
        correct: (M,), 1 where the prediction was right, else 0.

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance", ICLR 2022.

    Example:
        >>> reference, correct = np.array([0.9, 0.6, 0.5]), np.array([1.0, 1.0, 0.0])
        >>> thresholded_confidence(np.array([0.8, 0.4]), reference, correct)
        0.5
    """
    window, _ = checked_answers(window, window)
    return float((window >= confidence_threshold(reference, correct)).mean())


def _checked(probabilities: Float64) -> Float64:
    if probabilities.ndim != 2 or probabilities.size == 0:
        raise ValueError(f"got {probabilities.shape}; expected (N, C), N >= 1")
    if not np.isfinite(probabilities).all():
        raise ValueError("got a NaN or an Inf; expected finite values: leave that image out")
    return probabilities
