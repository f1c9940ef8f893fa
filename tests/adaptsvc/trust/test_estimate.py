"""Estimates of accuracy by hand, and on labels drawn so that an estimate's assumption holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptsvc.trust.calibration import softmax
from adaptsvc.trust.estimate import (
    agreement,
    average_confidence,
    confidence_threshold,
    difference_of_confidences,
    estimate_accuracy,
    thresholded_confidence,
)
from adaptsvc.types import Float64

SEEDS = st.integers(0, 2**31)


def answers(chosen: list[int], confidence: float) -> Float64:
    """Probabilities (N, 4) that choose these classes with that confidence."""
    rows = np.full((len(chosen), 4), (1 - confidence) / 3)
    rows[np.arange(len(chosen)), chosen] = confidence
    return rows


def calibrated(seed: int, images: int, scale: float = 2.0) -> tuple[Float64, Float64]:
    """Probabilities (N, 5) and whether their choice is right, labels drawn from the probabilities."""
    chance = np.random.default_rng(seed)
    probabilities = softmax(scale * chance.standard_normal((images, 5)))
    return probabilities, (chance.random(images) < probabilities.max(-1)).astype(np.float64)


def test_average_confidence_is_the_accuracy_of_a_calibrated_model() -> None:
    probabilities, correct = calibrated(0, 20_000)
    assert average_confidence(probabilities) == pytest.approx(correct.mean(), abs=0.01)


def test_agreement_of_two_draws_of_one_calibrated_belief_is_their_accuracy() -> None:
    """The equality of Jiang et al.: models that choose by chance from p, labels drawn from p as well."""
    probabilities, _ = calibrated(1, 20_000)
    chance = np.random.default_rng(2)
    draws = chance.random((3, 20_000, 1)) > np.cumsum(probabilities, axis=-1)
    first, second, label = np.eye(5)[np.minimum(draws.sum(axis=-1), 4)]
    assert agreement(first, second) == pytest.approx(agreement(first, label), abs=0.015)


def test_agreement_has_the_value_computed_by_hand_and_is_symmetric() -> None:
    first, second = answers([0, 1, 2, 3], 0.9), answers([0, 1, 2, 0], 0.4)
    assert agreement(first, second) == agreement(second, first) == 0.75


def test_difference_of_confidences_has_the_value_computed_by_hand() -> None:
    """0.5 right at a confidence of 0.8; the window's is 0.7, a tenth lower."""
    reference, correct = np.array([0.9, 0.7]), np.array([1.0, 0.0])
    assert difference_of_confidences(np.full(3, 0.7), reference, correct) == pytest.approx(0.4)
    assert difference_of_confidences(np.zeros(3), reference, correct) == 0


@pytest.mark.parametrize(
    ("correct", "threshold"),
    [([1, 1, 1, 1], 0.2), ([0, 1, 1, 1], 0.4), ([1, 1, 0, 0], 0.6), ([0, 0, 0, 0], math.inf)],
)
def test_as_many_reference_images_lie_below_the_threshold_as_were_wrong(
    correct: list[int], threshold: float
) -> None:
    reference = np.array([0.2, 0.4, 0.6, 0.8])
    assert confidence_threshold(reference, np.array(correct, dtype=np.float64)) == threshold


@settings(deadline=None)
@given(seed=SEEDS, images=st.integers(1, 50))
def test_estimates_on_the_reference_set_itself_are_its_accuracy(seed: int, images: int) -> None:
    probabilities, correct = calibrated(seed, images)
    confidence = probabilities.max(axis=-1)
    found = thresholded_confidence(confidence, confidence, correct)
    assert found == pytest.approx(correct.mean())
    found = difference_of_confidences(confidence, confidence, correct)
    assert found == pytest.approx(correct.mean())


def test_thresholded_confidence_follows_a_harder_window() -> None:
    easy, correct = calibrated(3, 5000, scale=3.0)
    hard, hard_correct = calibrated(4, 5000, scale=2.0)
    found = thresholded_confidence(hard.max(axis=-1), easy.max(axis=-1), correct)
    assert hard_correct.mean() < correct.mean() - 0.1
    assert abs(found - hard_correct.mean()) < abs(correct.mean() - hard_correct.mean())


def test_the_estimate_is_the_average_confidence_within_the_band() -> None:
    version, zero_shot = answers([0, 1, 2, 3], 0.6), answers([0, 1, 2, 0], 0.5)
    estimate = estimate_accuracy(version, zero_shot)
    assert estimate.accuracy == pytest.approx(0.6)
    assert (estimate.low, estimate.high, estimate.agreement) == (0.25, 0.75, 0.75)
    assert estimate.zero_shot == 0.5
    assert estimate.gain == pytest.approx(0.1)


def test_a_version_that_only_became_surer_is_not_thought_more_accurate() -> None:
    chosen = [0, 1, 2, 3]
    estimate = estimate_accuracy(answers(chosen, 0.99), answers(chosen, 0.5))
    assert estimate.accuracy == estimate.low == estimate.high == 0.5


@settings(deadline=None)
@given(seed=SEEDS, images=st.integers(1, 30))
def test_the_accuracy_lies_within_the_band_around_that_of_zero_shot_whatever_the_labels(
    seed: int, images: int
) -> None:
    chance = np.random.default_rng(seed)
    version, zero_shot = chance.dirichlet(np.ones(3), (2, images))
    label = np.eye(3)[chance.integers(0, 3, images)]
    moved = 1 - agreement(version, zero_shot)
    gap = abs(agreement(version, label) - agreement(zero_shot, label))
    assert gap <= moved + 1e-12


@settings(deadline=None)
@given(seed=SEEDS, images=st.integers(1, 30))
def test_the_estimate_ignores_the_order_and_stays_within_its_band(seed: int, images: int) -> None:
    chance = np.random.default_rng(seed)
    version, zero_shot = chance.dirichlet(np.ones(4), (2, images))
    order = chance.permutation(images)
    found = estimate_accuracy(version, zero_shot)
    again = estimate_accuracy(version[order], zero_shot[order])
    assert 0 <= found.low <= found.accuracy <= found.high <= 1
    assert again.accuracy == pytest.approx(found.accuracy)


def test_no_image_other_shapes_and_nan_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C\), N >= 1"):
        estimate_accuracy(np.ones((0, 3)), np.ones((0, 3)))
    with pytest.raises(ValueError, match="of the same images"):
        estimate_accuracy(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="leave that image out"):
        estimate_accuracy(np.full((2, 3), math.nan), np.ones((2, 3)))
    with pytest.raises(ValueError, match="N >= 1"):
        thresholded_confidence(np.ones(0), np.ones(1), np.ones(1))
