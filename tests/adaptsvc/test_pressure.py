"""Claims about how the worker gives way to a service that is slow."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from adaptsvc.pressure import HOLDS_S, Alert, give_way, is_pressed


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def note(alert: Alert, clock: Clock, seconds: float, answers: int = 30) -> None:
    for _ in range(answers):
        clock.now_s += 0.1
        alert.note(seconds)


def test_slow_answers_ask_the_worker_to_wait_and_fast_ones_do_not(tmp_path: Path) -> None:
    file, clock = tmp_path / "SLOW", Clock()
    alert = Alert(file, limit_s=0.5, clock=clock)
    note(alert, clock, 0.4)
    assert not file.exists()
    note(alert, clock, 0.6)
    assert is_pressed(file, time.time())


def test_requests_turned_away_count_as_slow(tmp_path: Path) -> None:
    file, clock = tmp_path / "SLOW", Clock()
    note(Alert(file, limit_s=0.5, clock=clock), clock, float("inf"))
    assert file.exists()


def test_without_a_limit_nobody_is_asked(tmp_path: Path) -> None:
    file, clock = tmp_path / "SLOW", Clock()
    note(Alert(file, limit_s=0.0, clock=clock), clock, 100.0)
    assert not file.exists()


def test_a_handful_of_answers_is_no_evidence(tmp_path: Path) -> None:
    file, clock = tmp_path / "SLOW", Clock()
    note(Alert(file, limit_s=0.5, clock=clock), clock, 100.0, answers=15)
    assert not file.exists()


def test_a_file_that_cannot_be_touched_fails_no_request(tmp_path: Path) -> None:
    file, clock = tmp_path / "gone" / "SLOW", Clock()
    note(Alert(file, limit_s=0.5, clock=clock), clock, 1.0)
    assert not file.exists()


@pytest.mark.parametrize(("age_s", "pressed"), [(0.1, True), (HOLDS_S + 0.1, False), (-60, False)])
def test_a_touch_speaks_for_a_short_time_only(tmp_path: Path, age_s: float, pressed: bool) -> None:
    file = tmp_path / "SLOW"
    file.touch()
    now = time.time()
    os.utime(file, (now - age_s, now - age_s))
    assert is_pressed(file, now) is pressed


def test_the_worker_goes_on_at_once_where_nothing_is_slow(tmp_path: Path) -> None:
    assert give_way(tmp_path / "SLOW", 60.0, threading.Event()) < 30


def test_the_worker_waits_while_the_service_is_slow_but_not_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "SLOW"
    file.touch()
    os.utime(file, (time.time(), time.time()))
    assert 0.2 <= give_way(file, 0.2, threading.Event()) < HOLDS_S + 30


def test_a_worker_told_to_stop_waits_no_longer(tmp_path: Path) -> None:
    file, stop = tmp_path / "SLOW", threading.Event()
    file.touch()
    stop.set()
    assert give_way(file, 3600.0, stop) < HOLDS_S
