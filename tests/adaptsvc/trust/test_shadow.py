"""Claims about the verdict on a candidate: each limit by its own reason, none before its time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from adaptsvc.trust.shadow import ShadowLimits, Tally, judge

LIMITS = ShadowLimits(
    min_images=100,
    min_agreement=0.8,
    max_confidence_shift=0.2,
    max_latency_ratio=1.5,
    timeout_s=60.0,
)
GOOD = Tally(images=100, agreed=80, shift=-20.0, pairs=4, log_ratio=4 * math.log(1.499))


def reasons(tally: Tally, age_s: float = 1.0) -> tuple[str, ...]:
    finding = judge(tally, LIMITS, age_s=age_s, failed=False)
    assert finding.decided
    return finding.reasons


def test_a_candidate_at_its_limits_is_promoted() -> None:
    assert reasons(GOOD) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"agreed": 79}, "shadow_agreement"),
        ({"shift": 21.0}, "shadow_confidence"),
        ({"shift": -21.0}, "shadow_confidence"),
        ({"log_ratio": 4 * math.log(1.6)}, "shadow_latency"),
    ],
)
def test_what_crosses_one_limit_is_refused_for_that_alone(
    change: dict[str, float], reason: str
) -> None:
    assert reasons(replace(GOOD, **change)) == (reason,)  # type: ignore[arg-type]


def test_everything_that_speaks_against_it_is_said() -> None:
    bad = Tally(images=100, agreed=0, shift=90.0, pairs=1, log_ratio=2.0)
    assert reasons(bad) == ("shadow_agreement", "shadow_confidence", "shadow_latency")


def test_nothing_is_decided_before_the_window_is_full_or_the_time_is_over() -> None:
    bad = Tally(images=99)
    assert not judge(bad, LIMITS, age_s=59.9, failed=False).decided
    assert reasons(bad, age_s=60.0) == ("shadow_timeout",)
    assert reasons(GOOD, age_s=600.0) == (), "a full window counts, however long it took"


def test_a_candidate_that_one_process_cannot_run_is_refused_at_once() -> None:
    finding = judge(Tally(), LIMITS, age_s=0.0, failed=True)
    assert (finding.decided, finding.reasons) == (True, ("shadow_failed",))


def test_the_sums_of_two_processes_are_those_of_one_that_saw_all() -> None:
    one, other = Tally(3, 2, 0.5, 0.7, 1, math.log(2), 2.0, 1.0, 4), Tally(1, 1, -0.5, 0.5)
    both = one + other
    assert (both.images, both.agreement, both.mean_shift) == (4, 0.75, 0.0)
    assert both.mean_absolute_shift == pytest.approx(0.3)
    assert both.latency_ratio == pytest.approx(2.0)
    assert both.dropped == 4


def test_one_interrupted_pair_among_many_does_not_refuse_a_candidate() -> None:
    """The mean of the ratios would be 5.95."""
    assert reasons(replace(GOOD, pairs=100, log_ratio=math.log(496.0))) == ()


def test_without_images_there_are_no_figures() -> None:
    empty = Tally()
    assert (empty.agreement, empty.mean_shift, empty.latency_ratio) == (None, None, None)
