"""Claims about the Kafka log when processes are killed: the broker, and a member of a group."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from streams import KafkaSettings, LogUnavailableError
from streams.kafka import KafkaLog
from streams.kafka_admin import create_topics
from tests.streams.bench import EVENTS, MANY, TOPICS, collect, commit_all, numbered, values
from tests.streams.broker import Broker

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
_JOIN_AND_HANG = """
import sys, time
from streams import KafkaSettings
from streams.kafka import KafkaLog
from tests.streams.bench import MANY, TOPICS
settings = KafkaSettings(servers=(sys.argv[1],), session_timeout_s=10, heartbeat_interval_s=0.5)
consumer = KafkaLog(settings, TOPICS).consumer("g", ["images"])
read = 0
while True:
    read += len(consumer.poll(**MANY, timeout_s=0.2))
    print(read, len(consumer.positions()), flush=True)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as started:
        yield started


@pytest.fixture
def settings(broker: Broker) -> KafkaSettings:
    settings = KafkaSettings(
        servers=(broker.server,),
        request_timeout_s=3,
        session_timeout_s=6,
        heartbeat_interval_s=0.2,
    )
    create_topics(settings, TOPICS)
    return settings


@pytest.fixture
def log(settings: KafkaSettings) -> Iterator[KafkaLog]:
    with closing(KafkaLog(settings, TOPICS)) as opened:
        yield opened


def test_the_partitions_of_a_killed_member_go_to_another_after_its_session(tmp_path: Path) -> None:
    with (
        Broker(tmp_path, "tansu") as broker,
        closing(_slow_log(broker.server)) as log,
        subprocess.Popen(
            [sys.executable, "-c", _JOIN_AND_HANG, broker.server],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as other,
    ):
        assert other.stdout is not None
        log.append("images", numbered(40))
        assert any(line == "40 4\n" for line in other.stdout)
        consumer = log.consumer("g", ["images"])
        received = collect(consumer, 15, within_s=60)
        assert len(consumer.positions()) == 2  # its half; the group is settled
        other.kill()
        # It committed nothing: all of it comes here.
        received |= collect(consumer, 40 - len(received), within_s=90)
        assert received == {*range(40)}
        commit_all(consumer)


def _slow_log(server: str) -> KafkaLog:
    settings = KafkaSettings(servers=(server,), session_timeout_s=10, heartbeat_interval_s=0.5)
    create_topics(settings, TOPICS)
    return KafkaLog(settings, TOPICS)


def test_what_was_acknowledged_and_saved_outlives_a_kill_of_the_broker(
    log: KafkaLog, broker: Broker
) -> None:
    log.append("events", numbered(50))
    consumer = log.consumer("g", ["events"])
    assert collect(consumer, 50) == {*range(50)}
    consumer.commit({EVENTS: 20})
    broker.wait_saved()
    broker.kill()
    with pytest.raises(LogUnavailableError):
        log.append("events", numbered(1, first=-1))
    with pytest.raises(LogUnavailableError):
        _poll_until_it_fails(log, consumer)
    broker.start()
    log.append("events", numbered(50, first=50))
    assert {*range(50, 100)} <= collect(consumer, 50)
    assert {*range(100)} <= {*values(log.read(EVENTS, offset=0, limit=200))}
    late = log.consumer("late", ["events"])
    assert {*range(100)} <= collect(late, 100)


def _poll_until_it_fails(log: KafkaLog, consumer: object) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        consumer.poll(**MANY, timeout_s=0.2)  # type: ignore[attr-defined]


def test_an_append_that_a_kill_of_the_broker_interrupts_is_refused_or_kept_and_the_next_ones_go_on(
    log: KafkaLog, broker: Broker
) -> None:
    stop, kept, refused = threading.Event(), [], []

    def append_for_ever() -> None:
        for number in range(10**9):
            if stop.is_set():
                return
            try:
                kept.append((log.append("events", numbered(1, first=number))[0].offset, number))
            except LogUnavailableError:
                refused.append(number)

    thread = threading.Thread(target=append_for_ever)
    thread.start()
    time.sleep(0.5)
    broker.kill()
    before = len(kept)
    time.sleep(1)
    broker.start()
    deadline = time.monotonic() + 30
    while len(kept) < before + 50 and time.monotonic() < deadline:
        time.sleep(0.1)
    stop.set()
    thread.join()
    after = dict(kept[before + 1 :])
    assert len(after) >= 49
    found = log.read(EVENTS, offset=min(after), limit=10**6)
    assert after.items() <= {each.offset: int(each.value) for each in found}.items()
    assert not {*refused} & {number for _, number in kept}


def test_a_commit_outlives_a_restart_of_the_broker(log: KafkaLog, broker: Broker) -> None:
    log.append("events", numbered(30))
    consumer = log.consumer("g", ["events"])
    collect(consumer, 30)
    consumer.commit({EVENTS: 10})
    consumer.close()
    broker.stop()
    broker.start()
    again = log.consumer("g", ["events"])
    assert again.committed() == {EVENTS: 10}
    assert collect(again, 20) == {*range(10, 30)}
