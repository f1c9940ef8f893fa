"""The Kafka log keeps the contract on a real broker, and what it alone promises."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import kafka
import pytest

from streams import KafkaSettings
from streams.kafka import KafkaLog
from streams.kafka_admin import create_topics
from tests.streams.broker import EXTERNAL_SERVER, Broker, clear
from tests.streams.clock import FakeClock
from tests.streams.contract import SESSION_TIMEOUT_S, TOPICS, DurableBench, DurableContract

PATIENCE_S = 0.6
SETTLE_S = 1.0
GROUPS = ("g", "h", "a", "b")


def settings_for(server: str, **changes: object) -> KafkaSettings:
    """Short timeouts; the session's is the shortest that a stock broker allows."""
    short = {
        "servers": (server,),
        "request_timeout_s": 3.0,
        "session_timeout_s": 6.0,
        "heartbeat_interval_s": 0.2,
        "max_poll_interval_s": SESSION_TIMEOUT_S,
        "step_budget_s": SESSION_TIMEOUT_S * 0.8,
    }
    return KafkaSettings(**{**short, **changes})  # type: ignore[arg-type]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """One for each test: it starts in a tenth of a second, empty."""
    started = Broker(tmp_path)
    yield started
    started.kill()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """The cluster that the environment names, emptied; else a broker of this test's own."""
    if not EXTERNAL_SERVER:
        own: Broker = request.getfixturevalue("broker")
        return own.server
    clear(EXTERNAL_SERVER, TOPICS.specs, GROUPS)
    return EXTERNAL_SERVER


@pytest.fixture
def settings(server: str) -> KafkaSettings:
    """Of a cluster that has the topics."""
    settings = settings_for(server)
    create_topics(settings, TOPICS)
    return settings


@pytest.fixture
def log(settings: KafkaSettings, clock: FakeClock) -> Iterator[KafkaLog]:
    with closing(KafkaLog(settings, TOPICS, now=clock)) as opened:
        yield opened


@pytest.fixture
def bench(
    log: KafkaLog, server: str, clock: FakeClock, request: pytest.FixtureRequest
) -> DurableBench:
    def settle() -> None:
        time.sleep(SETTLE_S)

    def pass_time(seconds: float) -> None:
        clock.advance(seconds)
        settle()

    def outage() -> AbstractContextManager[None]:
        if EXTERNAL_SERVER:
            pytest.skip("an external cluster is not ours to stop")
        return _stopped(request.getfixturevalue("broker"))

    return DurableBench(
        log, pass_time, PATIENCE_S, settle, expire=lambda: _expire(server), outage=outage
    )


def _expire(server: str) -> None:
    """Delete the records, as the cluster does when their time is over."""
    admin = kafka.KafkaAdminClient(bootstrap_servers=server)
    partitions = TOPICS.partitions(TOPICS.specs)
    # -1 is the high watermark: all there is.
    admin.delete_records({kafka.TopicPartition(p.topic, p.partition): -1 for p in partitions})
    admin.close()


@contextmanager
def _stopped(broker: Broker) -> Iterator[None]:
    broker.stop()
    try:
        yield
    finally:
        broker.start()


class TestKafkaLog(DurableContract):
    """All of the contract."""
