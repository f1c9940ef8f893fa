"""Claims about what is decided: which jobs make a batch, and who is let in."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptsvc.serving.batching import Admission, BatchLimits, Choice, Pace, Ticket, choose


def test_nothing_waits_for_ever_alone() -> None:
    assert choose([], BatchLimits(8, 0.1), now=0.0) == Choice(0, math.inf)


def test_without_a_wait_whatever_waits_goes_at_once() -> None:
    waiting = [Ticket(1, 5.0), Ticket(2, 5.0)]
    assert choose(waiting, BatchLimits(8, 0.0), now=5.0) == Choice(2, 0.0)


def test_a_full_batch_goes_before_its_wait_is_over() -> None:
    waiting = [Ticket(4, 0.0), Ticket(4, 0.0)]
    assert choose(waiting, BatchLimits(8, 60.0), now=0.0).take == 2


def test_a_batch_that_the_next_job_would_overfill_goes_without_it() -> None:
    waiting = [Ticket(6, 0.0), Ticket(4, 0.0)]
    assert choose(waiting, BatchLimits(8, 60.0), now=0.0).take == 1


def test_a_job_larger_than_a_batch_goes_alone() -> None:
    waiting = [Ticket(64, 0.0), Ticket(1, 0.0)]
    assert choose(waiting, BatchLimits(8, 0.0), now=0.0).take == 1


@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), min_size=1, max_size=30),
    st.integers(1, 64),
    st.floats(0, 5),
)
def test_the_oldest_is_never_passed_over_nor_kept_beyond_its_wait(
    jobs: list[tuple[int, float]], images: int, wait_s: float
) -> None:
    waiting = [Ticket(count, at) for count, at in sorted(jobs, key=lambda job: job[1])]
    limits = BatchLimits(images, wait_s)
    now = 10.0
    choice = choose(waiting, limits, now)
    taken = sum(ticket.images for ticket in waiting[: choice.take])
    assert taken <= images or choice.take == 1
    if choice.take == 0:
        assert 0 < choice.wait_s <= wait_s
        assert choose(waiting, limits, waiting[0].since_s + wait_s + 1e-6).take > 0


def test_pace_is_measured_between_completions_while_there_is_work() -> None:
    pace = Pace()
    assert pace.seconds(100) == 0
    pace.started(0.0)
    pace.finished(1, 1.0)
    for second in range(2, 60):
        pace.finished(2, float(second))
    assert pace.seconds(1) == pytest.approx(0.5, rel=1e-3)


def test_idle_time_is_no_pace() -> None:
    pace = Pace()
    pace.started(0.0)
    pace.finished(1, 0.1)
    pace.started(1000.0)
    pace.finished(1, 1000.1)
    assert pace.seconds(1) == pytest.approx(0.1)


def test_images_are_counted_not_jobs() -> None:
    admission = Admission(images=8)
    assert admission.admit(6, 10.0, now=0.0) is None
    refusal = admission.admit(3, 10.0, now=0.0)
    assert refusal is not None
    assert refusal.reason == "queue"
    assert admission.admit(2, 10.0, now=0.0) is None
    admission.leave(6)
    assert admission.admit(6, 10.0, now=0.0) is None


def test_a_job_larger_than_the_queue_is_let_in_when_nothing_else_is_inside() -> None:
    admission = Admission(images=8)
    assert admission.admit(64, 10.0, now=0.0) is None
    assert admission.admit(1, 10.0, now=0.0) is not None


def test_who_would_wait_beyond_the_deadline_is_refused_at_once_and_told_when_to_return() -> None:
    admission = Admission(images=100)
    admission.admit(10, 60.0, now=0.0)
    admission.finished(10, 10.0)
    admission.leave(10)
    assert admission.admit(30, 60.0, now=10.0) is None
    refusal = admission.admit(1, 20.0, now=10.0)
    assert refusal is not None
    assert refusal.reason == "deadline"
    assert refusal.retry_s == pytest.approx(10.0)
    assert admission.admit(1, 40.0, now=10.0) is None
