"""The in-memory log keeps the contract."""

import threading

import pytest

from streams import Log, MemoryLog
from tests.streams.bench import (
    MANY,
    SESSION_TIMEOUT_S,
    TOPICS,
    Bench,
    drain,
    numbered,
    values,
)
from tests.streams.clock import FakeClock
from tests.streams.contract import LogContract


@pytest.fixture
def bench() -> Bench:
    clock = FakeClock()
    log = MemoryLog(TOPICS, now=clock, session_timeout_s=SESSION_TIMEOUT_S)
    return Bench(log, clock.advance)


class TestMemoryLog(LogContract):
    """All of the contract."""


def test_appends_of_several_threads_are_all_kept() -> None:
    log: Log = MemoryLog(TOPICS)
    threads = [
        threading.Thread(target=log.append, args=("images", numbered(100, first=first)))
        for first in range(0, 400, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(drain(log.consumer("g", ["images"]))) == list(range(400))


def test_a_waiting_poll_wakes_when_a_message_comes() -> None:
    log = MemoryLog(TOPICS)
    consumer = log.consumer("g", ["images"])
    threading.Timer(0.1, log.append, args=("images", numbered(1))).start()
    assert len(consumer.poll(**MANY, timeout_s=5)) == 1
