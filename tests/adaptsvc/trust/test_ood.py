"""Out-of-distribution scores by hand and against scipy; AUROC against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import roc_auc_score, roc_curve

from adaptsvc.trust.ood import (
    SCORES,
    acceptance_threshold,
    auroc,
    false_positive_rate,
)
from adaptsvc.types import Float64

LOG3 = math.log(3)
LOGITS = np.array([[LOG3, 0.0], [0.0, 0.0]])  # softmax (3/4, 1/4) and (1/2, 1/2)
BY_HAND = {
    "msp": [1 / 4, 1 / 2],
    "mcm": [1 - math.sqrt(3) / (1 + math.sqrt(3)), 1 / 2],  # logit scale 2 halves the logits
    "energy": [-math.log(4), -math.log(2)],
    "max_logit": [-LOG3, 0.0],
    "entropy": [math.log(4) - 3 / 4 * LOG3, math.log(2)],
}
PLAIN: dict[str, Callable[[Float64, float], Float64]] = {
    "msp": lambda z, s: 1 - scipy_softmax(z, axis=-1).max(-1),
    "mcm": lambda z, s: 1 - scipy_softmax(z / s, axis=-1).max(-1),
    "energy": lambda z, s: -np.asarray(logsumexp(z, axis=-1)),
    "max_logit": lambda z, s: -np.max(z, axis=-1),
    "entropy": lambda z, s: np.asarray(scipy_entropy(scipy_softmax(z, axis=-1), axis=-1)),
}
steps = arrays.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 8))  # ties are common


def random_logits(seed: int = 0) -> Float64:
    return 5 * np.random.default_rng(seed).standard_normal((30, 6))


def test_every_score_is_checked_here() -> None:
    assert set(SCORES) == set(BY_HAND) == set(PLAIN)


@pytest.mark.parametrize("name", SCORES)
def test_score_has_the_values_computed_by_hand(name: str) -> None:
    assert SCORES[name](LOGITS, 2.0).tolist() == pytest.approx(BY_HAND[name])


@pytest.mark.parametrize("name", SCORES)
def test_score_equals_its_plain_twin(name: str) -> None:
    logits = random_logits()
    expected = PLAIN[name](logits, 10.0)
    np.testing.assert_allclose(SCORES[name](logits, 10.0), expected, atol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_score_of_huge_logits_is_finite(name: str) -> None:
    logits = np.array([[1e5, -1e5, 0.0], [1e5, 1e5, 1e5]])
    assert np.isfinite(SCORES[name](logits, 100.0)).all()


@pytest.mark.parametrize("name", SCORES)
def test_an_undecided_image_scores_higher_than_a_clear_one(name: str) -> None:
    clear, undecided = SCORES[name](np.array([[9.0, 0.0, 0.0], [3.0, 3.0, 3.0]]), 1.0)
    assert undecided > clear


@pytest.mark.parametrize("name", SCORES)
def test_order_of_classes_does_not_matter(name: str) -> None:
    logits = random_logits()
    shuffled = logits[:, [3, 0, 5, 1, 4, 2]]
    np.testing.assert_allclose(SCORES[name](shuffled, 10.0), SCORES[name](logits, 10.0))


@settings(deadline=None)
@given(scores=steps, share=st.floats(0.05, 0.95))
def test_threshold_accepts_at_least_the_share(scores: Float64, share: float) -> None:
    """The quantile lies between two scores, so the accepted count may miss one image."""
    threshold = acceptance_threshold(scores.astype(np.float64), share)
    accepted = int((scores <= threshold).sum())
    assert accepted >= math.floor(share * (len(scores) - 1)) + 1
    assert int((scores < threshold).sum()) <= math.ceil(share * (len(scores) - 1))


def test_threshold_accepts_that_share_of_many_scores() -> None:
    scores = np.random.default_rng(0).standard_normal(10_000)
    accepted = (scores <= acceptance_threshold(scores)).mean()
    assert accepted == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize(("count", "share"), [(0, 0.5), (3, 0.0), (3, 1.0), (3, -0.1), (3, 1.5)])
def test_no_scores_or_a_share_outside_zero_and_one_is_refused(count: int, share: float) -> None:
    with pytest.raises(ValueError, match=f"got {count} scores and a share of {share}"):
        acceptance_threshold(np.zeros(count), share)


def test_auroc_has_the_value_computed_by_hand() -> None:
    """Of 2 x 2 pairs: 3 above 1 and 2, one tie with 2, one above 1."""
    assert auroc(np.array([1.0, 2.0]), np.array([3.0, 2.0])) == (1 + 1 + 1 + 0.5) / 4


@settings(deadline=None)
@given(known=steps, unknown=steps)
def test_auroc_equals_that_of_scikit_learn_with_ties(known: Float64, unknown: Float64) -> None:
    truth = np.r_[np.zeros(len(known)), np.ones(len(unknown))]
    expected = roc_auc_score(truth, np.r_[known, unknown])
    assert auroc(known, unknown) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(known=steps, unknown=steps)
def test_auroc_of_swapped_groups_is_the_rest_to_one(known: Float64, unknown: Float64) -> None:
    assert auroc(known, unknown) + auroc(unknown, known) == pytest.approx(1)


def test_auroc_is_one_when_apart_and_a_half_when_all_are_equal() -> None:
    low, high = np.array([0.1, 0.2]), np.array([0.3, 0.4])
    assert (auroc(low, high), auroc(high, low), auroc(low * 0, high * 0)) == (1.0, 0.0, 0.5)


@pytest.mark.parametrize(("known", "unknown"), [(0, 2), (2, 0)])
def test_auroc_needs_both_groups(known: int, unknown: int) -> None:
    with pytest.raises(ValueError, match=f"got {known} known and {unknown} unknown scores"):
        auroc(np.zeros(known), np.zeros(unknown))


def test_false_positive_rate_has_the_value_computed_by_hand() -> None:
    """19 of 20 known lie at 18 or below; of the unknown -1 and 18 do, 18.5 and 40 do not."""
    known, unknown = np.arange(20.0), np.array([-1.0, 18.0, 18.5, 40.0])
    assert false_positive_rate(known, unknown) == 0.5


@settings(deadline=None)
@given(known=steps, unknown=steps, accepted=st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_false_positive_rate_equals_that_of_the_roc_curve_of_scikit_learn(
    known: Float64, unknown: Float64, accepted: float
) -> None:
    truth = np.r_[np.ones(len(known)), np.zeros(len(unknown))]
    fpr, tpr, _ = roc_curve(truth, -np.r_[known, unknown], drop_intermediate=False)
    expected = fpr[np.argmax(tpr >= accepted - 1e-12)]
    assert false_positive_rate(known, unknown, accepted) == pytest.approx(expected)


def test_false_positive_rate_is_zero_when_apart_and_one_when_all_are_equal() -> None:
    low, high = np.array([0.1, 0.2]), np.array([0.3])
    assert false_positive_rate(low, high) == 0
    assert false_positive_rate(high, low) == 1
    assert false_positive_rate(low * 0, high * 0) == 1


@pytest.mark.parametrize(("known", "unknown", "share"), [(0, 1, 0.9), (1, 0, 0.9), (1, 1, 1.0)])
def test_false_positive_rate_needs_both_groups_and_a_share(
    known: int, unknown: int, share: float
) -> None:
    with pytest.raises(ValueError, match="both need 1 and a share"):
        false_positive_rate(np.zeros(known), np.zeros(unknown), share)


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="leave that image out"):
        false_positive_rate(np.array([0.1, math.nan]), np.ones(2))
