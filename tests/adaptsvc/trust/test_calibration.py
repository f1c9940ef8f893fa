"""Calibration measures by hand and against plain loops; the label-free temperature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax as scipy_softmax
from sklearn.metrics import brier_score_loss, log_loss

from adaptsvc.trust.calibration import (
    TEMPERATURE_BOUNDS,
    adaptive_calibration_error,
    brier_score,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    refit_temperature,
    reliability,
    softening_temperature,
    softmax,
    temperature_for_confidence,
    temperature_for_entropy,
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


def test_confidence_is_taken_back_and_never_given() -> None:
    logits = random_logits()
    plain = confidence_at(logits, 1.0)
    sharpened = softening_temperature(3 * logits, plain)
    assert sharpened == pytest.approx(3.0, rel=1e-3)
    assert softening_temperature(logits / 3, plain) == 1.0


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


def labeled(
    seed: int = 0, images: int = 400, sharpness: float = 1.0
) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Logits whose best temperature is `sharpness`: labels are drawn from softmax(logits / sharpness)."""
    chance = np.random.default_rng(seed)
    logits = 2 * chance.standard_normal((images, 5))
    drawn = chance.random((images, 1)) > np.cumsum(softmax(logits), axis=-1)
    return logits * sharpness, np.minimum(drawn.sum(axis=-1), 4)


@settings(deadline=None)
@given(answers=answers)
def test_the_bars_of_a_reliability_diagram_give_the_ece_of_as_many_bins(
    answers: list[tuple[float, bool]],
) -> None:
    confidence, correct = np.array(answers, np.float64).T
    bars = reliability(confidence, correct, bins=10)
    assert sum(bar.images for bar in bars) == len(answers)
    gap = sum(bar.images * abs(bar.accuracy - bar.confidence) for bar in bars) / len(answers)
    expected = expected_calibration_error(confidence, correct, bins=10)
    assert gap == pytest.approx(expected, abs=1e-9)
    assert [bar.confidence for bar in bars] == sorted(bar.confidence for bar in bars)


def test_adaptive_ece_has_the_value_computed_by_hand() -> None:
    """Two bins of three and two: (0.1, 0.2, 0.3) one right, |1 - 0.6|; (0.8, 0.9) two right, |2 - 1.7|."""
    confidence, correct = np.array([0.9, 0.1, 0.3, 0.2, 0.8]), np.array([1.0, 0, 0, 1, 1])
    found = adaptive_calibration_error(confidence, correct, bins=2)
    assert found == pytest.approx((0.4 + 0.3) / 5)


@settings(deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1), seed=SEEDS)
def test_adaptive_ece_ignores_the_order_even_among_equal_confidences(
    steps: list[tuple[int, bool]], seed: int
) -> None:
    pairs = np.array(steps, dtype=np.float64) / [5, 1]
    shuffled = np.random.default_rng(seed).permutation(pairs)
    found = adaptive_calibration_error(pairs[:, 0], pairs[:, 1], bins=4)
    again = adaptive_calibration_error(shuffled[:, 0], shuffled[:, 1], bins=4)
    assert 0 <= found <= 1
    assert again == pytest.approx(found, abs=1e-9)


def test_adaptive_ece_of_one_bin_is_the_gap_of_the_means_as_ece_is() -> None:
    chance = np.random.default_rng(0)
    confidence, correct = chance.random(50), (chance.random(50) < 0.3).astype(np.float64)
    gap = abs(confidence.mean() - correct.mean())
    assert adaptive_calibration_error(confidence, correct, bins=1) == pytest.approx(gap)
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx(gap)


def test_adaptive_ece_of_one_image_is_its_gap() -> None:
    assert adaptive_calibration_error(np.array([0.75]), np.array([1.0])) == 0.25


@pytest.mark.parametrize("measure", [expected_calibration_error, adaptive_calibration_error])
def test_a_confidence_that_is_not_a_number_is_refused(
    measure: Callable[[Float64, Float64], float],
) -> None:
    with pytest.raises(ValueError, match="leave that image out"):
        measure(np.array([0.5, math.nan]), np.ones(2))


def test_brier_score_has_the_value_computed_by_hand() -> None:
    """(0.7, 0.3) of class 0: 0.09 twice; (0.2, 0.8) of class 0: 0.64 twice."""
    found = brier_score(np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0, 0]))
    assert found == pytest.approx((0.18 + 1.28) / 2)


def test_brier_score_is_two_at_most_and_zero_for_sure_and_right_answers() -> None:
    sure, wrong = np.eye(3), np.array([1, 2, 0])
    assert brier_score(sure, np.arange(3)) == 0
    assert brier_score(sure, wrong) == 2


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_brier_score_and_nll_equal_those_of_scikit_learn(seed: int) -> None:
    logits, labels = labeled(seed, images=30)
    probabilities, classes = softmax(logits), np.arange(5)
    brier = brier_score_loss(labels, probabilities, labels=classes, scale_by_half=False)
    assert brier_score(probabilities, labels) == pytest.approx(brier)
    nll = log_loss(labels, probabilities, labels=classes)
    assert negative_log_likelihood(logits, labels) == pytest.approx(nll)


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, sharpness=st.floats(0.3, 6))
def test_fitted_temperature_equals_a_bounded_search_of_the_nll(seed: int, sharpness: float) -> None:
    logits, labels = labeled(seed, images=100, sharpness=sharpness)
    low, high = np.log(TEMPERATURE_BOUNDS)
    searched = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, labels, math.exp(log_t)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit_temperature(logits, labels) == pytest.approx(math.exp(searched.x), rel=1e-3)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_fitting_finds_the_temperature_the_labels_were_drawn_at(sharpness: float) -> None:
    logits, labels = labeled(images=4000, sharpness=sharpness)
    assert fit_temperature(logits, labels) == pytest.approx(sharpness, rel=0.05)


def test_fitted_temperature_of_sharper_logits_is_higher_in_proportion() -> None:
    logits, labels = labeled()
    plain = fit_temperature(logits, labels)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * plain)


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_fitting_never_changes_the_chosen_class_nor_raises_the_nll(seed: int) -> None:
    logits, labels = labeled(seed, images=20, sharpness=3)
    fitted = fit_temperature(logits, labels)
    np.testing.assert_array_equal(softmax(logits, fitted).argmax(-1), logits.argmax(-1))
    best = negative_log_likelihood(logits, labels, fitted)
    for other in (*TEMPERATURE_BOUNDS, 1.0):
        assert best <= negative_log_likelihood(logits, labels, other) + 1e-12


@pytest.mark.parametrize(("label", "bound"), [(0, 0), (1, 1)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 1e3])
def test_all_right_gives_the_lower_bound_and_all_wrong_the_upper_one(
    label: int, bound: int, scale: float
) -> None:
    logits = scale * np.array([[2.0, 0.0, 1.0]])
    assert fit_temperature(logits, np.array([label])) == TEMPERATURE_BOUNDS[bound]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.ones((0, 3)), [], "N >= 1"),
        (np.ones((2, 3)), [0], r"expected \(N, C\) and \(N,\)"),
        (np.ones((2, 3)), [0, 3], r"got labels 0\.\.3; expected 0\.\.2"),
        (np.ones((2, 3)), [-1, 0], r"got labels -1\.\.0"),
        (np.array([[math.nan, 0.0]]), [0], "leave that image out"),
    ],
)
def test_labels_that_do_not_fit_the_logits_are_refused(
    logits: Float64, labels: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, np.array(labels, dtype=np.int64))


def test_a_better_temperature_replaces_the_one_so_far() -> None:
    logits, labels = labeled(sharpness=4)
    held_out = np.arange(400) % 2 == 0
    refit = refit_temperature(logits, labels, current=1.0, held_out=held_out)
    assert refit.replaced
    assert refit.temperature == fit_temperature(logits[1::2], labels[1::2])
    assert refit.nll_after < refit.nll_before
    assert refit.nll_before == negative_log_likelihood(logits[::2], labels[::2])


def test_a_temperature_that_does_worse_on_the_held_out_labels_is_not_taken() -> None:
    """The part to fit on has every answer right and asks for the sharpest temperature; the other has not."""
    logits, labels = labeled()
    labels[1::2] = logits[1::2].argmax(axis=-1)
    held_out = np.arange(400) % 2 == 0
    refit = refit_temperature(logits, labels, current=1.0, held_out=held_out)
    assert not refit.replaced
    assert refit.temperature == 1.0
    assert refit.nll_after > refit.nll_before


@pytest.mark.parametrize("held_out", [[True] * 4, [False] * 4, [True, False]])
def test_refitting_needs_labels_to_fit_on_and_labels_to_judge_by(held_out: list[bool]) -> None:
    with pytest.raises(ValueError, match="some to fit on and some to judge by"):
        refit_temperature(*labeled(images=4), current=1.0, held_out=np.array(held_out))


def entropy_at(logits: Float64, temperature: float) -> float:
    p = softmax(logits, temperature)
    return float(-(p * np.log(p)).sum(axis=-1).mean())


@settings(deadline=None)
@given(seed=SEEDS, scale=st.floats(0.5, 20), wanted=st.floats(0.1, 10))
def test_temperature_for_entropy_hits_its_target(seed: int, scale: float, wanted: float) -> None:
    logits = random_logits(seed, scale=scale) / 5
    target = entropy_at(logits, wanted)
    assert entropy_at(logits, temperature_for_entropy(logits, target)) == pytest.approx(target)


@pytest.mark.parametrize("sharpening", [0.5, 2.0, 6.0])
def test_both_label_free_temperatures_undo_a_plain_sharpening(sharpening: float) -> None:
    logits = random_logits(scale=2)
    sharper = sharpening * logits
    by_confidence = temperature_for_confidence(sharper, confidence_at(logits, 1.0))
    by_entropy = temperature_for_entropy(sharper, entropy_at(logits, 1.0))
    assert (by_confidence, by_entropy) == pytest.approx((sharpening, sharpening))


@pytest.mark.parametrize(("target_nats", "bound"), [(9.0, 1), (0.0, 0)])
def test_an_entropy_out_of_reach_gives_the_nearest_bound(target_nats: float, bound: int) -> None:
    assert temperature_for_entropy(random_logits(), target_nats) == TEMPERATURE_BOUNDS[bound]


def test_logits_so_sharp_that_confidence_is_flat_still_get_their_temperature() -> None:
    """Below T = 1 every probability here is 0 or 1 to the last bit, where a search by squares gets lost."""
    logits = random_logits(scale=100)
    found = temperature_for_confidence(logits, confidence_at(logits, 15.0))
    assert found == pytest.approx(15.0)
