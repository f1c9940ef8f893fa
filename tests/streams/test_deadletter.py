"""Claims about dead letters: what they keep, and what is sent back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.deadletter import ADDED, letter, original, replay_letters
from streams.errors import InvalidMessageError
from streams.log import MemoryLog
from streams.message import Message, NewMessage, TopicPartition
from streams.topics import Topics, parse_topics

LIMITS = {"partitions": 1, "retention_s": 100, "retention_bytes": 10**6, "max_message_bytes": 10**5}
TOPICS = parse_topics({"images": LIMITS, "labels": LIMITS, "dead": LIMITS}, source="tests")
DEAD = TopicPartition("dead", 0)
FAST = float("inf")
HEADERS = st.dictionaries(
    st.one_of(
        st.sampled_from(sorted(ADDED)),
        st.sampled_from(sorted(ADDED)).map("original-".__add__),
        st.text(max_size=8),
    ),
    st.binary(max_size=8),
    max_size=6,
)


def message(headers: Mapping[str, bytes], *, key: str = "a", value: bytes = b"v") -> Message:
    return Message("images", 3, 17, key, value, headers, 0.0)


def stored(new: NewMessage) -> Message:
    return Message("dead", 0, 0, new.key, new.value, new.headers, 0.0)


class Bench:
    def __init__(self, topics: Topics = TOPICS) -> None:
        self.log, self.reached = MemoryLog(topics), dict[TopicPartition, int]()

    def bury(self, key: str, *, origin: str = "images") -> None:
        dead = Message(origin, 0, 5, key, key.encode(), {"source": b"test"}, 0.0)
        new = letter(dead, reason="NotAnImageError", error="no", limit_bytes=10**5)
        self.log.append("dead", [new])

    def replay(
        self, rate: float = FAST, since: Mapping[TopicPartition, int] | None = None
    ) -> tuple[int, int]:
        """How many were sent back, and how many could not be."""
        where = self.reached if since is None else since
        done = replay_letters(
            self.log, [DEAD], dict(where), rate=rate, reached=self.reached.__setitem__
        )
        return done.sent, len(done.refused)

    def keys(self, topic: str) -> list[str]:
        return [m.key for m in self.log.read(TopicPartition(topic, 0), offset=0, limit=1000)]


@given(headers=HEADERS, key=st.text(max_size=5), value=st.binary(max_size=20))
def test_a_letter_gives_back_the_message_whatever_its_headers_are_called(
    headers: dict[str, bytes], key: str, value: bytes
) -> None:
    new = letter(message(headers, key=key, value=value), reason="r", error="e", limit_bytes=10**5)
    assert original(stored(new)) == ("images", NewMessage(key, value, headers))


def test_a_letter_says_why_and_from_where() -> None:
    new = letter(message({"reason": b"theirs"}), reason="R", error="the error", limit_bytes=10**5)
    assert (new.key, new.value) == ("a", b"v")
    assert new.headers == {
        "original-reason": b"theirs",
        "reason": b"R",
        "error": b"the error",
        "origin-topic": b"images",
        "origin-partition": b"3",
        "origin-offset": b"17",
    }


@pytest.mark.parametrize(
    ("poison", "lost"),
    [
        (message({"h": b"x" * 5000}), b"headers"),
        (message({}, value=b"x" * 5000), b"key, headers and value"),
        (message({}, key="k" * 5000), b"key, headers and value"),
    ],
    ids=["headers", "value", "key"],
)
def test_a_message_too_large_for_a_letter_is_buried_all_the_same(
    poison: Message, lost: bytes
) -> None:
    new = letter(poison, reason="R", error="e" * 10**7, limit_bytes=2000)
    assert new.size_bytes <= 2000
    assert new.headers["dropped"] == lost
    assert new.headers["origin-offset"] == b"17"
    with pytest.raises(InvalidMessageError, match="send the image again from its source"):
        original(stored(new))


def test_letters_go_back_to_their_own_topics_without_what_was_added() -> None:
    bench = Bench()
    bench.bury("a")
    bench.bury("b", origin="labels")
    bench.bury("c")
    assert bench.replay() == (3, 0)
    assert (bench.keys("images"), bench.keys("labels")) == (["a", "c"], ["b"])
    (sent, _) = bench.log.read(TopicPartition("images", 0), offset=0, limit=2)
    assert (sent.value, sent.headers) == (b"a", {"source": b"test"})


def test_a_letter_is_sent_once_and_new_ones_by_the_next_run() -> None:
    bench = Bench()
    for number in range(40):
        bench.bury(str(number))
    assert bench.replay() == (40, 0)
    assert bench.replay() == (0, 0)
    bench.bury("new")
    assert bench.replay() == (1, 0)
    assert bench.keys("images") == [*map(str, range(40)), "new"]


def test_a_letter_that_fails_again_in_the_same_run_waits_for_the_next() -> None:
    bench = Bench()
    append = bench.log.append

    def failing(topic: str, messages: object) -> object:
        if topic == "images":
            bench.bury("again")
        return append(topic, messages)  # type: ignore[arg-type]

    bench.bury("a")
    bench.log.append = failing  # type: ignore[method-assign,assignment]
    assert bench.replay() == (1, 0)
    assert bench.keys("dead") == ["a", "again"]
    assert bench.replay() == (1, 0)
    assert bench.keys("images") == ["a", "again"]


def test_what_cannot_be_sent_back_stops_nothing() -> None:
    bench = Bench()
    bench.bury("a")
    bench.log.append("dead", [NewMessage("not a letter", b"x")])
    bench.bury("b", origin="gone")
    bench.bury("c")
    assert bench.replay() == (2, 2)
    assert bench.keys("images") == ["a", "c"]


@pytest.mark.parametrize("rate", [2.0, float("inf")])
def test_a_letter_larger_than_its_topic_now_allows_stops_no_other_and_sends_none_twice(
    rate: float,
) -> None:
    small = parse_topics(
        {"images": {**LIMITS, "max_message_bytes": 12}, "dead": LIMITS}, source="tests"
    )
    bench = Bench(small)
    for name in ("a", "b", "large" * 10, "c"):
        bench.bury(name)
    assert bench.replay(rate) == (3, 1)
    assert bench.keys("images") == ["a", "b", "c"]


@pytest.mark.parametrize("since", [7, 10**6])
def test_a_place_beyond_the_end_is_of_another_log_and_all_is_sent(since: int) -> None:
    bench = Bench()
    bench.bury("a")
    assert bench.replay(since={DEAD: since}) == (1, 0)
