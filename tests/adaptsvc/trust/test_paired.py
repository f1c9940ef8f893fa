"""The paired intervals: by hand, against scipy's tests, and exact where there is little to go by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_rel

from adaptsvc.trust.paired import mean_difference, share_of_losses


def test_share_of_losses_counts_only_the_images_on_which_they_differ() -> None:
    first = np.array([1.0, 1, 1, 1, 0, 0])
    second = np.array([0.0, 0, 0, 1, 1, 0])
    assert share_of_losses(first, second).mean == 3 / 4


@pytest.mark.parametrize(("lost", "found"), [(5, False), (6, True)])
def test_six_changes_all_for_the_worse_are_the_fewest_that_say_anything(
    lost: int, found: bool
) -> None:
    """2 · (1/2)^6 is under 0.05, 2 · (1/2)^5 is not."""
    interval = share_of_losses(np.ones(lost), np.zeros(lost))
    assert (interval.low > 0.5) is found


@settings(deadline=None)
@given(lost=st.integers(0, 30), won=st.integers(0, 30))
def test_share_of_losses_decides_as_the_exact_mcnemar_test(lost: int, won: int) -> None:
    first = np.r_[np.ones(lost), np.zeros(won), 1.0]
    second = np.r_[np.zeros(lost), np.ones(won), 1.0]
    changed = max(1, lost + won)
    worse = bool(binomtest(lost, changed, alternative="greater").pvalue < 0.025)
    assert (share_of_losses(first, second).low > 0.5) is worse


def test_two_that_never_differ_say_nothing() -> None:
    interval = share_of_losses(np.ones(5), np.ones(5))
    assert (interval.low, interval.high) == (0, 1)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), images=st.integers(2, 40))
def test_mean_difference_equals_the_interval_of_scipy(seed: int, images: int) -> None:
    first, second = np.random.default_rng(seed).standard_normal((2, images))
    expected = ttest_rel(second, first).confidence_interval(0.9)
    found = mean_difference(first, second, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx((second - first).mean())


def test_the_mean_of_one_pair_could_be_anything() -> None:
    found = mean_difference(np.array([1.0]), np.array([3.0]))
    assert (found.mean, found.low, found.high) == (2, -math.inf, math.inf)


def test_swapping_the_two_turns_the_interval_around() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 20))
    one, other = mean_difference(first, second), mean_difference(second, first)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
