"""The Kafka log keeps the contract on a real broker, and what it alone promises."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import kafka
import pytest
import trustme
from kafka.codec import has_lz4

from streams import (
    BrokerUnavailableError,
    KafkaSettings,
    NewMessage,
    TopicConfigError,
    Topics,
)
from streams.kafka import KafkaLog
from streams.kafka_admin import check_topics, create_topics
from streams.kafka_consumer import KafkaGroupConsumer
from tests.conftest import free_port
from tests.streams.bench import (
    EVENTS,
    SESSION_TIMEOUT_S,
    TOPICS,
    DurableBench,
    collect,
    drain,
    numbered,
)
from tests.streams.broker import EXTERNAL_SERVER, Broker, clear
from tests.streams.clock import FakeClock
from tests.streams.contract_durable import DurableContract
from tests.tls_proxy import TlsProxy

PATIENCE_S = 10.0
SETTLE_S = 1.5
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
    with Broker(tmp_path) as started:
        yield started


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


# Appending


def test_compressed_messages_pass_unchanged(settings: KafkaSettings) -> None:
    with closing(KafkaLog(replace(settings, compression="gzip"), TOPICS)) as log:
        sent = [NewMessage("k", bytes([n]) * 100_000, {"n": bytes([n])}) for n in range(5)]
        log.append("events", sent)
        found = log.read(EVENTS, offset=0, limit=5)
        assert [(each.value, each.headers) for each in found] == [
            (each.value, each.headers) for each in sent
        ]


def test_a_codec_whose_package_is_missing_is_named(settings: KafkaSettings) -> None:
    if has_lz4():
        pytest.fail("lz4 is installed; this test needs a codec that is not: choose another")
    with (
        closing(KafkaLog(replace(settings, compression="lz4"), TOPICS)) as log,
        pytest.raises(BrokerUnavailableError, match="lz4"),
    ):
        log.append("events", numbered(1))


def test_threads_may_share_a_log(log: KafkaLog) -> None:
    threads = [
        threading.Thread(target=log.append, args=("images", numbered(50, first=first)))
        for first in range(0, 200, 50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collect(log.consumer("g", ["images"]), 200) == {*range(200)}


# What other programs append


def test_messages_of_other_programs_do_not_stop_a_consumer(log: KafkaLog, server: str) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=server)
    for key, value, headers in [
        (None, b"no key", []),
        (b"\xff\xfe", None, [("empty", b""), ("twice", b"1"), ("twice", b"2")]),
        (b"", b"\x00" * 10, [("", bytes(range(256)))]),
    ]:
        producer.send("events", key=key, value=value, headers=headers, partition=0).get(5)
    producer.close()
    log.append("events", numbered(1))
    found = drain(log.consumer("g", ["events"]), PATIENCE_S)
    assert [each.key for each in found] == ["", "\\xff\\xfe", "", "key-0"]
    assert [each.value for each in found] == [b"no key", b"", bytes(10), b"0"]
    assert found[1].headers == {"empty": b"", "twice": b"2"}
    assert found[2].headers == {"": bytes(range(256))}
    for each in found:  # so that a dead letter can be made of it
        NewMessage(each.key, each.value, each.headers)


# Bounds


def test_what_waits_for_its_owner_is_bounded_by_the_fetch(tmp_path: Path) -> None:
    with Broker(tmp_path, "tansu") as broker:
        small = settings_for(broker.server, fetch_bytes=400_000, session_timeout_s=10.0)
        create_topics(small, TOPICS)
        with closing(KafkaLog(small, TOPICS)) as log:
            for first in range(0, 400, 20):
                log.append("images", [NewMessage(str(first + n), bytes(10_000)) for n in range(20)])
            consumer = log.consumer("g", ["images"])
            assert isinstance(consumer, KafkaGroupConsumer)
            received, most_bytes = 0, 0
            while received < 400:
                received += len(consumer.poll(max_messages=3, max_bytes=10**6, timeout_s=5))
                most_bytes = max(most_bytes, consumer.waiting_bytes)
    # One fetch, and a message of each partition that does not fit, may come on top of what was still
    # under the limit; all there is are 4 MB.
    assert 0 < most_bytes <= 2 * small.fetch_bytes + 4 * 10_003


def test_many_single_reads_do_not_fetch_what_they_do_not_return(log: KafkaLog) -> None:
    positions = log.append("images", [NewMessage(str(n), bytes([n]) * 20_000) for n in range(40)])
    for number, position in enumerate(positions):
        (found,) = log.read(position.partition, offset=position.offset, limit=1)
        assert found.value == bytes([number]) * 20_000


# Membership


def test_the_group_is_divided_while_a_member_is_in_a_long_step(log: KafkaLog) -> None:
    log.append("images", numbered(40))
    busy = log.consumer("g", ["images"])
    before = drain(busy, PATIENCE_S)
    started = time.monotonic()
    joined = log.consumer("g", ["images"])  # nobody polls `busy`, and yet this returns
    assert time.monotonic() - started < 5
    assert collect(joined, 10)
    busy.heartbeat()
    kept = [each for each in busy.positions() if each not in joined.positions()]
    busy.commit({each: busy.positions()[each] for each in kept})
    assert len(kept) == 2
    assert len(before) == 40


def test_an_owner_away_for_longer_than_its_step_budget_is_warned(
    log: KafkaLog, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = log.consumer("g", ["events"])
    clock.advance(SESSION_TIMEOUT_S * 0.7)
    consumer.heartbeat()
    assert "step_budget_s" not in caplog.text
    clock.advance(SESSION_TIMEOUT_S * 0.9)
    consumer.heartbeat()
    assert "9 s without a poll or heartbeat, more than step_budget_s (8)" in caplog.text


def test_a_named_member_finds_its_partitions_again_without_a_new_division(log: KafkaLog) -> None:
    first = log.consumer("g", ["images"], member="worker-0")
    other = log.consumer("g", ["images"], member="worker-1")
    collect(other, 0)
    time.sleep(SETTLE_S)
    drain(first, PATIENCE_S)
    held = first.positions().keys()
    first.close()
    time.sleep(SETTLE_S)
    assert log.consumer("g", ["images"], member="worker-0").positions().keys() == held
    assert len(held) == 2


# Topics


def test_created_topics_have_the_limits_of_the_table(server: str) -> None:
    settings = settings_for(server)
    assert {each.found for each in check_topics(settings, TOPICS)} == {None}
    assert create_topics(settings, TOPICS) == ("events", "images")
    assert check_topics(settings, TOPICS) == ()
    assert create_topics(settings, TOPICS) == ()


def test_each_difference_is_reported(settings: KafkaSettings) -> None:
    wanted = replace(
        TOPICS.spec("images"), partitions=8, retention_s=50, max_message_bytes=2_000_000
    )
    differences = check_topics(settings, Topics({"images": wanted}))
    assert [str(each) for each in differences] == [
        "images: partitions is 4; expected 8",
        "images: retention.ms is 100000; expected 50000",
        "images: retention.bytes is 1000000; expected 500000",
        "images: max.message.bytes is 9065536; expected 2065536",
    ]


def test_a_cluster_without_the_topics_is_refused_with_what_to_do(server: str) -> None:
    with pytest.raises(TopicConfigError, match=r"events: partitions is missing.*topics create"):
        KafkaLog(settings_for(server), TOPICS)


def test_a_topic_of_another_number_of_partitions_is_refused(settings: KafkaSettings) -> None:
    images = replace(TOPICS.spec("images"), partitions=8)
    with pytest.raises(TopicConfigError, match="images: partitions is 4; expected 8"):
        KafkaLog(settings, Topics({"images": images}))


# Reaching the cluster


def test_a_cluster_that_is_not_there_is_named_and_leaves_no_thread() -> None:
    before = threading.active_count()
    settings = settings_for("127.0.0.1:1", request_timeout_s=1.0)
    with pytest.raises(BrokerUnavailableError, match=r"kafka://127\.0\.0\.1:1.*brokers run"):
        KafkaLog(settings, TOPICS)
    assert threading.active_count() == before


def test_a_broker_that_speaks_no_tls_is_an_error(server: str) -> None:
    with pytest.raises(BrokerUnavailableError, match="brokers run, the servers and credentials"):
        KafkaLog(settings_for(server, security="SSL", request_timeout_s=2.0), TOPICS)


# TLS


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[KafkaSettings]:
    """Of a broker behind TLS, whose certificate an authority of our own has signed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    issued.write_to_path(str(tmp_path / "broker.pem"))
    with (
        TlsProxy(tmp_path / "broker.pem", port := free_port()) as proxy,
        Broker(tmp_path, "tansu", port=port, advertised_port=proxy.port),
    ):
        server = f"127.0.0.1:{proxy.port}"
        yield settings_for(
            server,
            security="SSL",
            ca_file=tmp_path / "ca.pem",
            request_timeout_s=10.0,
            session_timeout_s=10.0,
        )


def test_everything_passes_through_tls(tls: KafkaSettings) -> None:
    create_topics(tls, TOPICS)
    with closing(KafkaLog(tls, TOPICS)) as log:
        assert log.append("events", numbered(10))[-1].offset == 9
        with closing(log.consumer("g", ["events"])) as consumer:
            assert collect(consumer, 10) == {*range(10)}


def test_a_broker_of_another_authority_is_refused(
    tls: KafkaSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(BrokerUnavailableError, match="brokers run, the servers and credentials"):
        create_topics(replace(tls, ca_file=tmp_path / "other.pem", request_timeout_s=3.0), TOPICS)
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_a_broker_under_another_name_is_refused(
    tls: KafkaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tuple(each.replace("127.0.0.1", "localhost") for each in tls.servers)
    with pytest.raises(BrokerUnavailableError, match="brokers run, the servers and credentials"):
        create_topics(replace(tls, servers=elsewhere, request_timeout_s=3.0), TOPICS)
    assert "Hostname mismatch" in caplog.text


def test_without_tls_a_broker_that_wants_it_does_not_answer(tls: KafkaSettings) -> None:
    plain = replace(tls, security="PLAINTEXT", ca_file=None, request_timeout_s=3.0)
    with pytest.raises(BrokerUnavailableError, match="brokers run, the servers and credentials"):
        create_topics(plain, TOPICS)
