"""Claims about the probes: a session that hangs, fails or lies is noticed; a full queue is not death."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from adaptsvc.config import Settings
from adaptsvc.serving.health import CanaryLimits, Health, Sighting, judge
from adaptsvc.serving.jobs import Decoded, Item
from adaptsvc.serving.predictor import Predictor
from adaptsvc.types import Float32
from tests.adaptsvc.serving.bench import PATIENCE_S, Broken, Held, NotANumber, Stand, session_of

tiny = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
Png = Callable[[int], bytes]


def count(_predictor: Predictor, images: Sequence[Decoded], _embeddings: Float32) -> int:
    return len(images)


def health_of(stand: Stand, timeout_s: float = PATIENCE_S) -> Health:
    stand.live.poll()
    stand.engine.start()
    return Health(stand.engine, CanaryLimits(1.0, timeout_s), observer=stand.observer)


@tiny
def test_inference_is_unproven_until_a_canary_came_back(prepared: Settings) -> None:
    stand = Stand(prepared)
    health = health_of(stand)
    assert health.problem() == ""
    assert "no canary" in health.unproven()
    health.fly()
    assert health.unproven() == ""
    assert stand.observer.alive == [True]
    stand.engine.close(1)


@tiny
@pytest.mark.parametrize("kind", [Broken, NotANumber])
def test_a_session_that_fails_or_lies_is_not_alive_until_it_is_well_again(
    prepared: Settings, kind: type
) -> None:
    stand = Stand(prepared)
    health = health_of(stand)
    whole = session_of(stand)
    stand.use(kind(whole) if kind is NotANumber else kind())
    health.fly()
    assert "canary inference failed" in health.problem()
    stand.use(whole)
    health.fly()
    assert health.problem() == ""
    assert stand.observer.alive == [False, True]
    stand.engine.close(1)


@tiny
def test_a_session_that_hangs_is_not_alive(prepared: Settings) -> None:
    stand = Stand(prepared)
    health = health_of(stand, timeout_s=0.05)
    session = Held(session_of(stand))
    stand.use(session)
    health.fly()
    assert health.problem() != ""
    assert stand.observer.alive == [False]
    session.release.set()
    stand.engine.close(1)


@tiny
def test_the_canaries_of_a_stall_are_not_all_run_after_it(prepared: Settings) -> None:
    stand = Stand(prepared)
    health = health_of(stand, timeout_s=0.05)
    session = Held(session_of(stand))
    stand.use(session)
    for _ in range(5):
        health.fly()
    session.release.set()
    stand.engine.check().result(PATIENCE_S)
    assert session.calls == 2  # the one that hung, and the newest
    stand.engine.close(1)


@tiny
def test_a_canary_goes_before_a_queue_that_is_full(prepared: Settings, png: Png) -> None:
    """Between the calls of one large job, too."""
    stand = Stand(prepared)
    health = health_of(stand)
    session = Held(session_of(stand))
    stand.use(session)
    large = stand.engine.submit([Item(png(n)) for n in range(40)], count, PATIENCE_S)
    rest = [stand.engine.submit([Item(png(n))], count, PATIENCE_S) for n in range(24)]
    assert session.entered.wait(PATIENCE_S)
    check = stand.engine.check()
    session.release.set()
    check.result(PATIENCE_S)
    calls = session.calls
    assert large.result(PATIENCE_S) == 40
    assert [job.result(PATIENCE_S) for job in rest] == [1] * 24
    assert calls < session.calls
    assert health.problem() == ""
    stand.engine.close(1)


@tiny
def test_a_thread_that_ended_is_not_alive(prepared: Settings) -> None:
    stand = Stand(prepared)
    health = health_of(stand)
    stand.engine.close(PATIENCE_S)
    assert "ended" in health.problem()


@tiny
def test_before_the_first_version_the_process_is_alive(prepared: Settings) -> None:
    stand = Stand(prepared)
    stand.engine.start()
    health = Health(stand.engine, CanaryLimits(1.0, PATIENCE_S), observer=stand.observer)
    health.fly()
    assert health.problem() == ""
    stand.engine.close(1)


def test_canaries_that_stop_coming_back_are_noticed() -> None:
    limits = CanaryLimits(interval_s=5, timeout_s=10)
    assert judge(Sighting(0.0, ""), limits, busy_s=0, now=30.0) == ""
    assert "no canary has come back" in judge(Sighting(0.0, ""), limits, busy_s=0, now=31.0)
