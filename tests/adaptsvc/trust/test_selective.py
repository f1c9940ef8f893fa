"""Risk and coverage by hand, against a plain loop, and under ties; the acceptance curve against AUROC."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc

from adaptsvc.trust.ood import auroc, false_positive_rate
from adaptsvc.trust.selective import (
    acceptance_curve,
    accuracy_when_refusing,
    area_under_risk_coverage,
    risk_coverage,
)
from adaptsvc.types import Float64

SEEDS = st.integers(0, 2**31)
# Six levels of confidence: ties are common.
answers = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)
CONFIDENCE = np.array([0.6, 0.9, 0.7, 0.8])
CORRECT = np.array([1.0, 1.0, 0.0, 1.0])  # surest first: right, right, wrong, right


def test_risk_and_coverage_have_the_values_computed_by_hand() -> None:
    coverage, risk = risk_coverage(CONFIDENCE, CORRECT)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert area_under_risk_coverage(CONFIDENCE, CORRECT) == pytest.approx((1 / 3 + 1 / 4) / 4)


def test_equally_confident_images_count_as_their_mean() -> None:
    _, risk = risk_coverage(np.full(4, 0.5), np.array([1.0, 1, 1, 0]))
    assert risk.tolist() == [0.25] * 4


@settings(deadline=None, max_examples=30)
@given(answers=answers, seed=SEEDS)
def test_ties_give_the_average_over_orders(answers: list[tuple[int, bool]], seed: int) -> None:
    """The plain twin: tied images in random order, many times."""
    pairs, chance = np.array(answers[:6], dtype=np.float64), np.random.default_rng(seed)
    risks = []
    for _ in range(600):
        order = np.lexsort((chance.random(len(pairs)), -pairs[:, 0]))
        risks.append(np.cumsum(1 - pairs[order, 1]) / np.arange(1, len(pairs) + 1))
    _, risk = risk_coverage(pairs[:, 0], pairs[:, 1])
    np.testing.assert_allclose(risk, np.mean(risks, axis=0), atol=0.12)


@settings(deadline=None)
@given(answers=answers, seed=SEEDS)
def test_neither_order_nor_scale_of_confidence_matters(
    answers: list[tuple[int, bool]], seed: int
) -> None:
    pairs = np.array(answers, dtype=np.float64)
    shuffled = np.random.default_rng(seed).permutation(pairs)
    _, risk = risk_coverage(pairs[:, 0], pairs[:, 1])
    _, again = risk_coverage(np.exp(shuffled[:, 0]), shuffled[:, 1])
    np.testing.assert_allclose(again, risk, atol=1e-12)
    assert risk[-1] == pytest.approx(1 - pairs[:, 1].mean())


def test_confidence_that_ranks_right_answers_first_has_the_least_area() -> None:
    correct = np.array([1.0, 1, 1, 0, 0])
    best = area_under_risk_coverage(np.arange(5, 0, -1.0), correct)
    worst = area_under_risk_coverage(np.arange(5.0), correct)
    blind = area_under_risk_coverage(np.zeros(5), correct)
    assert best < blind < worst
    assert blind == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 3 / 4), (0.2, 3 / 4), (0.25, 2 / 3), (0.5, 1.0), (0.99, 1.0)]
)
def test_accuracy_when_refusing_leaves_out_whole_images(share: float, expected: float) -> None:
    found = accuracy_when_refusing(CONFIDENCE, CORRECT, share=share)
    assert found == pytest.approx(expected)


def test_the_share_to_refuse_survives_floating_point() -> None:
    """0.29 * 100 is just under 29 in floating point; the 29 least confident are the wrong ones."""
    correct = (np.arange(100) >= 29).astype(np.float64)
    assert accuracy_when_refusing(np.arange(100.0), correct, share=0.29) == 1


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_refusing_everything_or_less_than_nothing_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match=r"expected \[0, 1\)"):
        accuracy_when_refusing(CONFIDENCE, CORRECT, share=share)


@pytest.mark.parametrize("measure", [risk_coverage, area_under_risk_coverage])
def test_no_image_other_shapes_and_nan_are_refused(
    measure: Callable[[Float64, Float64], object],
) -> None:
    for confidence, correct in ((0, 0), (2, 3)):
        with pytest.raises(ValueError, match=r"expected \(N,\) twice, N >= 1"):
            measure(np.ones(confidence), np.ones(correct))
    with pytest.raises(ValueError, match="leave that image out"):
        measure(np.array([math.nan]), np.ones(1))


def test_one_image_is_covered_whole() -> None:
    coverage, risk = risk_coverage(np.array([0.3]), np.array([0.0]))
    assert (coverage.tolist(), risk.tolist()) == ([1.0], [1.0])


@settings(deadline=None)
@given(seed=SEEDS, known=st.integers(1, 30), unknown=st.integers(1, 30))
def test_the_area_over_the_acceptance_curve_is_the_auroc(
    seed: int, known: int, unknown: int
) -> None:
    chance = np.random.default_rng(seed)
    first = chance.integers(0, 8, known).astype(np.float64)
    second = chance.integers(2, 10, unknown).astype(np.float64)
    known_accepted, unknown_accepted = acceptance_curve(first, second)
    assert auc(unknown_accepted, known_accepted) == pytest.approx(auroc(first, second))


def test_the_acceptance_curve_passes_through_the_false_positive_rate() -> None:
    chance = np.random.default_rng(0)
    known, unknown = chance.normal(0, 1, 200), chance.normal(2, 1, 100)
    known_accepted, unknown_accepted = acceptance_curve(known, unknown)
    at = int(np.argmax(known_accepted >= 0.95))
    assert unknown_accepted[at] == false_positive_rate(known, unknown)


@pytest.mark.parametrize(
    ("known", "unknown", "message"),
    [([], [1.0], "both need 1"), ([1.0], [], "both need 1"), ([math.nan], [1.0], "leave that")],
)
def test_the_acceptance_curve_needs_finite_scores_of_both_groups(
    known: list[float], unknown: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        acceptance_curve(np.array(known), np.array(unknown))
