"""Claims about reading a topic once more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from streams.again import Span, in_order, resent, shuffled, spans
from streams.errors import UnknownTopicError
from streams.log import MemoryLog
from streams.message import NewMessage, TopicPartition
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.streams.clock import FakeClock

TOPIC, TOPICS = "images.unlabeled", load_topics()
COUNT = 60


@pytest.fixture
def log() -> MemoryLog:
    """Sixty messages, one a second, over the four partitions."""
    clock = FakeClock()
    log = MemoryLog(TOPICS, now=clock)
    for number in range(COUNT):
        log.append(TOPIC, [NewMessage(f"image-{number}", str(number).encode(), {"n": b"1"})])
        clock.advance(1)
    return log


def test_the_whole_topic_comes_in_the_order_in_which_it_was_stored(log: MemoryLog) -> None:
    parts = spans(log, TOPICS, TOPIC)
    assert [part.partition.partition for part in parts] == [0, 1, 2, 3]
    assert [int(m.value) for m in in_order(log, parts)] == list(range(COUNT))
    assert sum(part.length for part in parts) == COUNT


def test_the_end_of_a_topic_is_where_it_was_at_the_start(log: MemoryLog) -> None:
    again = in_order(log, spans(log, TOPICS, TOPIC))
    sent = 0
    for message in again:  # to the topic it is read from: it would never end otherwise
        log.append(TOPIC, [resent(message)])
        sent += 1
    assert sent == COUNT


def test_shuffled_gives_each_message_once_in_an_order_of_the_seed(log: MemoryLog) -> None:
    parts = spans(log, TOPICS, TOPIC)
    one, same, other = ([int(m.value) for m in shuffled(log, parts, seed)] for seed in (1, 1, 2))
    assert sorted(one) == list(range(COUNT))
    assert one == same
    assert len({tuple(one), tuple(other), tuple(range(COUNT))}) == 3


@pytest.mark.parametrize(
    ("offsets", "wanted"),
    [
        ("2:5", [(p, 2, 5) for p in range(4)]),
        ("1/3:", [(1, 3, None)]),
        ("0/:2, 3/1:4", [(0, 0, 2), (3, 1, 4)]),
        ("0/5:99999", [(0, 5, None)]),
        (":", [(p, 0, None) for p in range(4)]),
    ],
)
def test_a_range_of_offsets_is_read_and_nothing_else(
    log: MemoryLog, offsets: str, wanted: list[tuple[int, int, int | None]]
) -> None:
    expected = []
    for number, first, end in wanted:
        partition = TopicPartition(TOPIC, number)
        expected.append(Span(partition, first, end or log.bounds(partition).end))
    parts = spans(log, TOPICS, TOPIC, offsets)
    assert parts == expected
    places = sorted((m.partition, m.offset) for m in in_order(log, parts))
    assert places == [(s.partition.partition, o) for s in expected for o in range(s.first, s.end)]


@pytest.mark.parametrize(
    "offsets", ["5", "a:b", "1:2,3:4", "0/1:2,0/3:4", "0/1:2,3:4", "-1:2", "1:2,"]
)
def test_offsets_written_otherwise_are_refused_with_an_example(
    log: MemoryLog, offsets: str
) -> None:
    with pytest.raises(ValueError, match="for example 100:200"):
        spans(log, TOPICS, TOPIC, offsets)


def test_a_partition_that_is_not_there_is_refused(log: MemoryLog) -> None:
    with pytest.raises(UnknownTopicError):
        spans(log, TOPICS, TOPIC, "7/0:5")


def test_a_message_sent_again_keeps_key_value_and_headers(log: MemoryLog) -> None:
    (first, *_) = in_order(log, spans(log, TOPICS, TOPIC))
    assert resent(first) == NewMessage("image-0", b"0", {"n": b"1"})


@pytest.fixture
def trimmed(tmp_path: Path) -> Iterator[SqliteLog]:
    """A log whose older half is gone by retention."""
    clock = FakeClock()
    with closing(SqliteLog(tmp_path / "log", TOPICS, now=clock)) as log:
        for half in range(2):
            log.append(TOPIC, [NewMessage(f"{half}-{k}", b"x") for k in range(20)])
            clock.advance(TOPICS.spec(TOPIC).retention_s - 10)
        log.enforce_retention(clock())
        yield log


def test_what_retention_removed_is_left_out(trimmed: SqliteLog) -> None:
    parts = spans(trimmed, TOPICS, TOPIC)
    assert sum(part.length for part in parts) == 20
    assert {m.key[0] for m in in_order(trimmed, parts)} == {"1"}
    gone = [Span(part.partition, 0, part.end) for part in parts]
    assert len(list(shuffled(trimmed, gone, 0))) == len(list(in_order(trimmed, gone))) == 20
