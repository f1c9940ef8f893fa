"""Claims about the figures of one cell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adaptsvc.evaluation.measure import UNKNOWN, Rule, harmonic_mean, measure

LOGITS = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.5, 0.0]])
LABELS = np.array([0, 0, 1, UNKNOWN])
RULE = Rule(logit_scale=1.0, temperature=1.0, ood_score="max_logit")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_figures_are_those_of_a_hand_computed_example() -> None:
    figures = measure(LOGITS, LABELS, RULE).figures
    assert figures["accuracy"] == 0.75, "half of class 0, all of class 1"
    assert figures["auroc"] == 1.0, "the unknown image is the least sure"
    assert figures["auroc_score"] == 1.0
    assert figures["h"] == pytest.approx(2 * 0.75 / 1.75)
    gaps = (1 - sigmoid(2)) + sigmoid(1) + (1 - sigmoid(3))
    assert figures["ece"] == pytest.approx(gaps / 3)
    nll = math.log1p(math.exp(-2)) + math.log1p(math.exp(1)) + math.log1p(math.exp(-3))
    assert figures["nll"] == pytest.approx(nll / 3)


def test_classes_count_alike_however_many_images_they_have() -> None:
    logits = np.array([[1.0, 0.0]] * 9 + [[1.0, 0.0]])
    labels = np.array([0] * 9 + [1])
    assert measure(logits, labels, RULE).figures["accuracy"] == 0.5


def test_the_temperature_moves_calibration_and_nothing_else() -> None:
    sharp, flat = (measure(LOGITS, LABELS, Rule(1.0, t, "max_logit")) for t in (1.0, 2.0))
    for name in ("accuracy", "auroc", "auroc_score", "h"):
        assert sharp.figures[name] == flat.figures[name]
    assert sharp.figures["ece"] != flat.figures["ece"]
    assert flat.confidence[0] == pytest.approx(sigmoid(1))


def test_without_unknown_images_their_figures_are_left_out() -> None:
    figures = measure(LOGITS[:3], LABELS[:3], RULE).figures
    assert set(figures) == {"accuracy", "ece", "nll", "temperature"}


def test_no_known_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image of a known class"):
        measure(LOGITS, np.full(4, UNKNOWN), RULE)


def test_the_harmonic_mean_of_nothing_is_nothing() -> None:
    assert harmonic_mean(0.0, 0.0) == 0.0
