"""Claims about telling a change after every image: rare where there is none, soon where there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adaptsvc.trust.sequential import (
    BETS,
    Bets,
    ChangeDetector,
    quantile_edges,
    ranks,
    rare_bets,
    shift_bets,
    threshold,
)
from adaptsvc.types import Float64

RNG = np.random.default_rng(5)
CALM = 1000  # images per false alarm, where a test waits for one


def detector(scores: Float64, **options: object) -> ChangeDetector:
    """On the second half of (N, J) scores, with bins by the first."""
    half = len(scores) // 2
    return ChangeDetector(quantile_edges(scores[:half]), scores[half:], **options)  # type: ignore[arg-type]


def first_alarm(found: ChangeDetector, scores: Float64) -> int:
    """After how many of (N, J) scores; N + 1 is never."""
    alarms = [found.update(row) for row in scores]
    return alarms.index(True) + 1 if True in alarms else len(scores) + 1


def test_a_rank_is_the_share_of_higher_numbers_and_a_draw_among_its_like() -> None:
    found = ChangeDetector(np.array([[0.5, 1.5]]), np.array([[0.0], [1.0], [1.0], [2.0]]))
    for score, draw, expected in [
        (2.0, 0.0, 0.0),
        (2.0, 1.0, 0.4),
        (1.0, 0.5, 0.5),
        (0.0, 1.0, 1.0),
    ]:
        p, _ = ranks(np.array([score]), found.state, np.array([draw]))
        assert p == pytest.approx([expected])


@pytest.mark.parametrize("bets", BETS)
def test_every_bet_is_a_fair_game(bets: Bets) -> None:
    p = (np.arange(200_000) + 0.5) / 200_000
    assert np.exp(BETS[bets](p)).mean(axis=0) == pytest.approx(
        np.ones(BETS[bets](p).shape[1]), abs=5e-3
    )


def test_bets_pay_for_what_they_are_on() -> None:
    high, low = shift_bets(np.array([0.01])), shift_bets(np.array([0.99]))
    assert high[0].argmax() == low[0, ::-1].argmax() == 7, "the boldest, on the right side"
    assert rare_bets(np.array([0.001])).min() > 0 > rare_bets(np.array([0.5])).max()


def test_ranks_are_uniform_and_unrelated_however_small_the_reference() -> None:
    """Of 400 streams at once, each with a reference of 8 numbers of another scale."""
    scores = RNG.normal(size=(40, 400)) ** 3
    edges = quantile_edges(RNG.normal(size=(8, 400)))
    found = ChangeDetector(edges, scores[:8])
    seen = []
    for row in scores[8:]:
        p, bins = ranks(row, found.state, RNG.random(400))
        found.state.counts[np.arange(400), bins] += 1
        seen.append(p)
    p_values = np.array(seen)
    assert p_values.mean() == pytest.approx(0.5, abs=0.01)
    assert np.quantile(p_values, [0.01, 0.25, 0.9]) == pytest.approx([0.01, 0.25, 0.9], abs=0.02)
    assert np.corrcoef(p_values[:-1].ravel(), p_values[1:].ravel())[0, 1] == pytest.approx(
        0, abs=0.05
    )


@pytest.mark.parametrize("bets", BETS)
def test_false_alarms_are_as_rare_as_was_asked_for(bets: Bets) -> None:
    """200 streams of 1,000 images, at one false alarm in 1,000 images: 200 are allowed."""
    streams = 200
    edges = (
        np.full((streams, 1), 0.5)
        if bets == "rare"
        else quantile_edges(RNG.normal(size=(64, streams)))
    )

    def draw(count: int) -> Float64:
        numbers = RNG.normal(size=(count, streams))
        return (numbers > 1.5).astype(np.float64) if bets == "rare" else numbers

    found = ChangeDetector(edges, draw(64), bets=bets)
    alarmed = np.zeros(streams, np.bool_)
    for row in draw(1000):
        found.update(row)
        alarmed |= found.evidence >= threshold(CALM)
    assert alarmed.sum() <= 200 * (1 - math.exp(-1)) + 3 * 7, "a Poisson process of that rate"


@pytest.mark.parametrize(("shift", "at_most"), [(2.0, 25), (1.0, 60), (-1.0, 60), (0.5, 250)])
def test_a_shift_is_told_after_some_images_larger_ones_sooner(shift: float, at_most: int) -> None:
    found = detector(RNG.normal(size=(256, 1)), images_per_false_alarm=60_000)
    assert first_alarm(found, RNG.normal(size=(300, 1))) > 300
    assert first_alarm(found, RNG.normal(shift, size=(400, 1))) <= at_most


def test_one_of_many_scores_is_enough() -> None:
    before, after = RNG.normal(size=(256, 20)), RNG.normal(size=(100, 20))
    after[:, 13] += 2
    assert first_alarm(detector(before), after) <= 40


def test_what_never_happened_is_told_after_few_times() -> None:
    found = ChangeDetector(np.array([[0.5]]), np.zeros((256, 1)), bets="rare")
    assert first_alarm(found, np.ones((20, 1))) <= 8
    sometimes = (np.arange(400)[:, None] % 10 == 0).astype(np.float64)
    assert (
        first_alarm(ChangeDetector(np.array([[0.5]]), np.zeros((256, 1)), bets="rare"), sometimes)
        < 350
    )


def test_an_alarm_lasts_as_long_as_the_change_and_then_ends() -> None:
    found = detector(RNG.normal(size=(256, 1)))
    for row in RNG.normal(1.5, size=(600, 1)):
        found.update(row)
    assert found.alarm
    lasted = [found.update(row) for row in RNG.normal(1.5, size=(600, 1))]
    assert all(lasted), "what comes during an alarm does not become normal"
    after = [found.update(row) for row in RNG.normal(size=(400, 1))]
    assert not after[-1]


def test_the_same_numbers_give_the_same_evidence() -> None:
    before, after = RNG.normal(size=(64, 3)), RNG.normal(size=(50, 3))
    first, second = detector(before, seed=4), detector(before, seed=4)
    for row in after:
        first.update(row)
        second.update(row)
    assert first.statistic == second.statistic


def test_evidence_begins_at_nothing() -> None:
    found = detector(RNG.normal(size=(64, 2)))
    assert (found.statistic, found.alarm) == (0.0, False)
    assert found.threshold == pytest.approx(math.log(60_001))
