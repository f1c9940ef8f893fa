"""Calibration measures by hand and against plain loops; the label-free temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax as scipy_softmax

from adaptsvc.trust.calibration import (
    TEMPERATURE_BOUNDS,
    expected_calibration_error,
    negative_log_likelihood,
    softmax,
    temperature_for_confidence,
)
from adaptsvc.types import Float64

SEEDS = st.integers(0, 2**31)
answers = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def random_logits(seed: int = 0, images: int = 40, classes: int = 5, scale: float = 4) -> Float64:
    return scale * np.random.default_rng(seed).standard_normal((images, classes))


def ece_by_loop(confidence: Float64, correct: Float64, bins: int) -> float:
    """The definition: bins (0, 1/B], (1/B, 2/B], ...; the first holds 0 as well."""
    total = 0.0
    for b in range(bins):
        held = [
            (c, r)
            for c, r in zip(confidence, correct, strict=True)
            if max(math.ceil(c * bins), 1) == b + 1
        ]
        if held:
            accuracy = sum(r for _, r in held) / len(held)
            mean_confidence = sum(c for c, _ in held) / len(held)
            total += len(held) / len(confidence) * abs(accuracy - mean_confidence)
    return total


def test_ece_has_the_value_computed_by_hand() -> None:
    """Two bins: (0.2, 0.4) one right, gap |1/2 - 0.3|; (0.6, 0.8, 1.0) two right, |2/3 - 0.8|."""
    confidence, correct = np.array([0.2, 0.4, 0.6, 0.8, 1.0]), np.array([1.0, 0, 0, 1, 1])
    expected = 2 / 5 * 0.2 + 3 / 5 * (0.8 - 2 / 3)
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(expected)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    """0.5 and 0.4 share (0, 0.5], where their gaps +0.5 and -0.4 cancel but for 0.1."""
    confidence, correct = np.array([0.5, 0.4]), np.array([1.0, 0.0])
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.05)


@settings(deadline=None)
@given(answers=answers, bins=st.integers(1, 20))
def test_ece_equals_a_plain_loop(answers: list[tuple[float, bool]], bins: int) -> None:
    confidence = np.array([c for c, _ in answers])
    correct = np.array([float(r) for _, r in answers])
    expected = ece_by_loop(confidence, correct, bins)
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(
        expected, abs=1e-9
    )


@settings(deadline=None)
@given(answers=answers, seed=SEEDS)
def test_ece_is_within_zero_and_one_and_ignores_the_order(
    answers: list[tuple[float, bool]], seed: int
) -> None:
    pairs = np.array(answers, dtype=np.float64)
    shuffled = np.random.default_rng(seed).permutation(pairs)
    found = expected_calibration_error(pairs[:, 0], pairs[:, 1])
    assert 0 <= found <= 1
    assert expected_calibration_error(shuffled[:, 0], shuffled[:, 1]) == pytest.approx(found)


def test_ece_is_zero_for_honest_and_one_for_surely_wrong_answers() -> None:
    honest = expected_calibration_error(np.full(4, 0.75), np.array([1.0, 1, 1, 0]))
    assert honest == 0
    assert expected_calibration_error(np.ones(3), np.zeros(3)) == 1


@pytest.mark.parametrize(("confidence", "correct"), [((0,), (0,)), ((2,), (3,)), ((2, 2), (2, 2))])
def test_ece_of_nothing_or_of_other_shapes_is_refused(
    confidence: tuple[int, ...], correct: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected \(N,\) twice, N >= 1"):
        expected_calibration_error(np.ones(confidence), np.ones(correct))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_softmax_equals_that_of_scipy(temperature: float) -> None:
    logits = random_logits()
    expected = scipy_softmax(logits / temperature, axis=-1)
    np.testing.assert_allclose(softmax(logits, temperature), expected, atol=1e-15)


def test_softmax_of_huge_logits_is_finite_and_sums_to_one() -> None:
    probabilities = softmax(np.array([[1e300, -1e300, 1e300], [1e4, 0.0, -1e4]]))
    np.testing.assert_array_equal(probabilities, [[0.5, 0, 0.5], [1, 0, 0]])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_nll_equals_the_cross_entropy_of_torch(temperature: float) -> None:
    logits = random_logits()
    labels = np.random.default_rng(1).integers(0, 5, 40)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits / temperature), torch.from_numpy(labels)
    ).item()
    found = negative_log_likelihood(logits, labels.astype(np.float64), temperature)
    assert found == pytest.approx(expected, abs=1e-12)


def test_nll_has_the_value_computed_by_hand_and_stays_finite_for_huge_logits() -> None:
    quarter = np.array([[math.log(3), 0.0]])  # softmax (3/4, 1/4)
    assert negative_log_likelihood(quarter, np.array([1.0])) == pytest.approx(math.log(4))
    huge = np.array([[1e4, 0.0]])
    assert negative_log_likelihood(huge, np.array([1.0])) == pytest.approx(1e4)


def confidence_at(logits: Float64, temperature: float) -> float:
    return float(softmax(logits, temperature).max(axis=-1).mean())


@settings(deadline=None)
@given(seed=SEEDS, scale=st.floats(0.5, 20), wanted=st.floats(0.1, 10))
def test_temperature_for_confidence_hits_its_target(seed: int, scale: float, wanted: float) -> None:
    logits = random_logits(seed, scale=scale)
    target = confidence_at(logits, wanted)
    found = temperature_for_confidence(logits, target)
    assert confidence_at(logits, found) == pytest.approx(target, abs=1e-3)


@settings(deadline=None)
@given(seed=SEEDS, target=st.floats(0.25, 0.99))
def test_temperature_never_changes_the_chosen_class(seed: int, target: float) -> None:
    logits = random_logits(seed)
    temperature = temperature_for_confidence(logits, target)
    assert temperature > 0
    np.testing.assert_array_equal(
        softmax(logits, temperature).argmax(axis=-1), logits.argmax(axis=-1)
    )


def test_sharper_logits_get_a_higher_temperature_in_proportion() -> None:
    logits = random_logits()
    plain = temperature_for_confidence(logits, 0.7)
    assert temperature_for_confidence(3 * logits, 0.7) == pytest.approx(3 * plain, rel=1e-3)


@pytest.mark.parametrize(("scale", "target", "bound"), [(1e3, 0.5, 1), (1e-3, 0.9, 0)])
def test_a_target_out_of_reach_gives_the_nearest_bound(
    scale: float, target: float, bound: int
) -> None:
    found = temperature_for_confidence(random_logits(scale=scale), target)
    low, high = TEMPERATURE_BOUNDS
    assert low <= found <= high
    assert found == pytest.approx(TEMPERATURE_BOUNDS[bound], rel=1e-3)
