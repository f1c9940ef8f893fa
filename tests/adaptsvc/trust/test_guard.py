"""The guard: each reason is given exactly when it should be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptsvc.trust.guard import GuardLimits, confident_agreement, judge, marginal_entropy
from adaptsvc.types import Float64

LIMITS = GuardLimits(marginal_entropy_kept=0.8, agreement=0.75, confident_share=0.5)
LENIENT = GuardLimits(marginal_entropy_kept=0.0, agreement=0.0, confident_share=1.0)
CLASSES = 4


def answers(chosen: Sequence[int], confidence: float | Sequence[float] = 0.9) -> Float64:
    """Probabilities (N, 4) that choose these classes with that confidence."""
    sure = np.broadcast_to(np.asarray(confidence, np.float64), len(chosen))
    rows = np.repeat((1 - sure[:, None]) / (CLASSES - 1), CLASSES, axis=1)
    rows[np.arange(len(chosen)), list(chosen)] = sure
    return rows


# The first four are the half the zero-shot model is surest of.
ZERO_SHOT = answers([0, 1, 2, 3, 0, 1, 2, 3], [0.9] * 4 + [0.6] * 4)


def test_the_zero_shot_model_itself_is_accepted() -> None:
    verdict = judge(ZERO_SHOT, ZERO_SHOT, LIMITS)
    assert verdict.accepted
    assert verdict.reasons == ()
    assert verdict.agreement == 1
    assert verdict.marginal_entropy_nats == pytest.approx(math.log(CLASSES))


def test_a_candidate_may_change_its_mind_where_the_zero_shot_model_is_unsure() -> None:
    verdict = judge(answers([0, 1, 2, 3, 1, 2, 3, 0]), ZERO_SHOT, LIMITS)
    assert verdict.accepted
    assert verdict.agreement == 1


@pytest.mark.parametrize(("changed", "accepted"), [(0, True), (1, True), (2, False)])
def test_disagreement_is_refused_below_the_limit_and_not_at_it(
    changed: int, accepted: bool
) -> None:
    """Of 4 confident images, 1 changed is an agreement of 0.75, exactly the limit."""
    first = {0: [0, 1, 2, 3], 1: [1, 1, 2, 3], 2: [1, 0, 2, 3]}[changed]
    verdict = judge(answers([*first, 0, 1, 2, 3]), ZERO_SHOT, LIMITS)
    assert verdict.agreement == 1 - changed / 4
    assert verdict.accepted is accepted
    assert verdict.reasons == (() if accepted else ("disagrees_with_zero_shot",))


@pytest.mark.parametrize(("kept", "accepted"), [(0.49, True), (0.51, False)])
def test_a_collapsed_marginal_is_refused_below_the_share_kept(kept: float, accepted: bool) -> None:
    """Two of four classes, surely: log 2 of log 4, a share of one half."""
    limits = GuardLimits(marginal_entropy_kept=kept, agreement=0.0, confident_share=1.0)
    verdict = judge(answers([0, 1] * 4, 1.0), ZERO_SHOT, limits)
    assert verdict.marginal_entropy_nats == pytest.approx(math.log(2))
    assert verdict.accepted is accepted
    assert verdict.reasons == (() if accepted else ("marginal_collapsed",))


def test_a_candidate_that_answers_one_class_only_is_refused_for_both_reasons() -> None:
    verdict = judge(answers([0] * 8, 1.0), ZERO_SHOT, LIMITS)
    assert verdict.reasons == ("marginal_collapsed", "disagrees_with_zero_shot")
    assert verdict.marginal_entropy_nats == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_candidate_that_is_not_finite_is_refused_whatever_the_limits(value: float) -> None:
    candidate = ZERO_SHOT.copy()
    candidate[3, 2] = value
    verdict = judge(candidate, ZERO_SHOT, LENIENT)
    assert not verdict.accepted
    assert verdict.reasons == ("not_finite",)
    assert math.isfinite(verdict.agreement + verdict.marginal_entropy_nats)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31))
def test_order_of_images_and_names_of_classes_do_not_matter(seed: int) -> None:
    chance = np.random.default_rng(seed)
    candidate, zero_shot = chance.dirichlet(np.ones(CLASSES), (2, 12))
    images, classes = chance.permutation(12), chance.permutation(CLASSES)
    shuffled = judge(candidate[images][:, classes], zero_shot[images][:, classes], LIMITS)
    expected = judge(candidate, zero_shot, LIMITS)
    assert shuffled.reasons == expected.reasons
    assert shuffled.agreement == expected.agreement


@pytest.mark.parametrize(
    ("candidate", "zero_shot"), [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (0, 3))]
)
def test_no_images_or_shapes_that_differ_are_refused(
    candidate: tuple[int, ...], zero_shot: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C\) twice"):
        judge(np.ones(candidate), np.ones(zero_shot), LIMITS)


def test_marginal_entropy_has_the_value_computed_by_hand() -> None:
    """The mean of (1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 0) is (1/2, 1/2, 0)."""
    assert marginal_entropy(np.eye(3)[[0, 0, 1, 1]]) == pytest.approx(math.log(2))
    assert marginal_entropy(np.eye(3)) == pytest.approx(math.log(3))


@pytest.mark.parametrize(("share", "expected"), [(0.25, 1.0), (0.5, 0.5), (1.0, 0.75), (0.01, 1.0)])
def test_agreement_counts_the_surest_share_and_one_image_at_least(
    share: float, expected: float
) -> None:
    zero_shot = answers([0, 1, 2, 3], [0.6, 0.8, 0.9, 0.5])  # surest first: 2, 1, 0, 3
    candidate = answers([0, 0, 2, 3])
    assert confident_agreement(candidate, zero_shot, share) == expected
