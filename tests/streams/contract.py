"""What every log must do. Knows nothing of which log it tests.

A test module subclasses `LogContract` and gives it the fixture `bench`.
"""

import time

import pytest

from streams import (
    LogClosedError,
    MessageTooLargeError,
    NewMessage,
    NotOwnedError,
    OffsetOutOfRangeError,
    TopicPartition,
    UnknownTopicError,
    partition_of,
)
from tests.streams.bench import (
    EVENTS,
    MANY,
    SESSION_TIMEOUT_S,
    Bench,
    commit_all,
    numbered,
    values,
)


class LogContract:
    """Each test is a promise of `streams.log`."""

    def test_append_returns_where_each_message_can_be_read(self, bench: Bench) -> None:
        sent = numbered(20)
        for message, position in zip(sent, bench.log.append("images", sent), strict=True):
            (found,) = bench.log.read(position.partition, offset=position.offset, limit=1)
            assert (found.key, found.value) == (message.key, message.value)
            assert found.topic_partition == position.partition
            assert found.partition == partition_of(message.key, 4)

    def test_append_of_nothing_stores_nothing(self, bench: Bench) -> None:
        assert bench.log.append("images", []) == ()

    def test_bounds_are_the_first_offset_kept_and_the_next_one(self, bench: Bench) -> None:
        assert (bench.log.bounds(EVENTS).first, bench.log.bounds(EVENTS).end) == (0, 0)
        bench.log.append("events", numbered(3))
        assert (bench.log.bounds(EVENTS).first, bench.log.bounds(EVENTS).end) == (0, 3)
        with pytest.raises(UnknownTopicError):
            bench.log.bounds(TopicPartition("events", 1))

    def test_messages_of_a_key_arrive_in_the_order_of_their_append(self, bench: Bench) -> None:
        for first in range(0, 200, 20):
            bench.log.append("images", numbered(20, first=first))
        received = bench.drain(bench.log.consumer("g", ["images"]))
        assert values(received) == list(range(200))
        for key in range(10):
            mine = [int(each.value) for each in received if each.key == f"key-{key}"]
            assert mine == list(range(key, 200, 10))

    def test_offsets_of_a_partition_count_up_by_one(self, bench: Bench) -> None:
        bench.log.append("events", numbered(3))
        bench.log.append("events", numbered(3))
        assert [each.offset for each in bench.log.read(EVENTS, offset=0, limit=9)] == [*range(6)]

    def test_a_crash_without_commit_redelivers_everything(self, bench: Bench) -> None:
        bench.log.append("images", numbered(30))
        crashed = bench.log.consumer("g", ["images"])
        assert values(bench.drain(crashed)) == list(range(30))
        bench.pass_time(SESSION_TIMEOUT_S + 1)
        assert values(bench.drain(bench.log.consumer("g", ["images"]))) == list(range(30))

    def test_a_restart_after_a_commit_goes_on_behind_it(self, bench: Bench) -> None:
        bench.log.append("images", numbered(30))
        first = bench.log.consumer("g", ["images"])
        bench.drain(first)
        commit_all(first)
        first.close()
        bench.log.append("images", numbered(5, first=30))
        assert values(bench.drain(bench.log.consumer("g", ["images"]))) == list(range(30, 35))

    def test_two_consumers_share_the_partitions_and_miss_nothing(self, bench: Bench) -> None:
        one, two = (bench.log.consumer("g", ["images"]) for _ in range(2))
        bench.settle()
        bench.log.append("images", numbered(40))
        received = [bench.drain(each) for each in (one, two)]
        assert values(received[0] + received[1]) == list(range(40))
        assert all(received)
        assert not one.positions().keys() & two.positions().keys()
        assert len(one.positions()) == len(two.positions()) == 2

    def test_two_groups_each_get_everything(self, bench: Bench) -> None:
        bench.log.append("images", numbered(10))
        for group in ("a", "b"):
            assert values(bench.drain(bench.log.consumer(group, ["images"]))) == list(range(10))

    def test_one_leaves_and_the_other_takes_over(self, bench: Bench) -> None:
        one, two = (bench.log.consumer("g", ["images"]) for _ in range(2))
        bench.settle()
        bench.log.append("images", numbered(40))
        mine = bench.drain(one)
        theirs = bench.drain(two)
        two.close()
        bench.settle()
        assert values(bench.drain(one)) == values(theirs)
        assert len(one.positions()) == 4
        commit_all(one)
        assert mine

    def test_a_kept_partition_goes_on_where_it_stood(self, bench: Bench) -> None:
        one = bench.log.consumer("g", ["images"])
        bench.log.append("images", numbered(40))
        bench.drain(one)
        bench.log.consumer("g", ["images"])
        bench.settle()
        assert bench.drain(one) == []
        assert len(one.positions()) == 2

    def test_a_silent_member_loses_its_partitions_after_the_session_timeout(
        self, bench: Bench
    ) -> None:
        silent, other = (bench.log.consumer("g", ["images"]) for _ in range(2))
        bench.settle()
        bench.drain(silent)
        bench.pass_time(SESSION_TIMEOUT_S * 0.4)
        bench.drain(other)
        assert len(other.positions()) == 2
        bench.pass_time(SESSION_TIMEOUT_S)
        bench.drain(other)
        assert len(other.positions()) == 4

    def test_heartbeats_keep_a_membership_through_a_long_step(self, bench: Bench) -> None:
        bench.log.append("images", numbered(20))
        busy, other = (bench.log.consumer("g", ["images"]) for _ in range(2))
        bench.settle()
        bench.drain(busy)
        for _ in range(5):
            bench.pass_time(SESSION_TIMEOUT_S * 0.7)
            busy.heartbeat()
            bench.drain(other)
        assert len(other.positions()) == 2
        commit_all(busy)

    def test_a_lapsed_member_cannot_commit_and_learns_it_from_its_heartbeat(
        self, bench: Bench
    ) -> None:
        bench.log.append("images", numbered(20))
        lapsed, other = (bench.log.consumer("g", ["images"]) for _ in range(2))
        bench.settle()
        bench.drain(lapsed)
        bench.pass_time(SESSION_TIMEOUT_S + 1)
        bench.drain(other)
        with pytest.raises(NotOwnedError, match="session timeout"):
            commit_all(lapsed)
        with pytest.raises(NotOwnedError, match="session timeout"):
            lapsed.heartbeat()

    def test_a_lapsed_member_joins_again_by_polling(self, bench: Bench) -> None:
        bench.log.append("images", numbered(40))
        lapsed, other = (bench.log.consumer("g", ["images"]) for _ in range(2))
        bench.settle()
        bench.drain(lapsed)
        bench.pass_time(SESSION_TIMEOUT_S + 1)
        bench.drain(other)
        again = list(lapsed.poll(**MANY, timeout_s=bench.patience_s))
        bench.settle()
        again += bench.drain(lapsed)
        assert {each.topic_partition for each in again} == lapsed.positions().keys()
        assert len(lapsed.positions()) == 2
        commit_all(lapsed)

    def test_a_commit_of_an_old_generation_is_refused(self, bench: Bench) -> None:
        bench.log.append("images", numbered(40))
        old = bench.log.consumer("g", ["images"])
        bench.drain(old)
        new = bench.log.consumer("g", ["images"])
        bench.settle()
        before = dict(new.committed())
        with pytest.raises(NotOwnedError, match="divided anew") as caught:
            commit_all(old)
        assert caught.value.group == "g"
        assert new.committed() == before
        bench.drain(old)
        commit_all(old)

    def test_a_member_name_is_taken_over_at_once_and_its_predecessor_fenced(
        self, bench: Bench
    ) -> None:
        bench.log.append("images", numbered(40))
        before = bench.log.consumer("g", ["images"], member="worker-0")
        bench.drain(before)
        after = bench.log.consumer("g", ["images"], member="worker-0")
        assert values(bench.drain(after)) == list(range(40))
        bench.settle()
        with pytest.raises(NotOwnedError, match="took this member's name"):
            before.poll(**MANY, timeout_s=bench.patience_s)
        with pytest.raises(NotOwnedError, match="took this member's name"):
            commit_all(before)
        before.close()
        commit_all(after)

    def test_commit_moves_where_the_group_resumes(self, bench: Bench) -> None:
        bench.log.append("events", numbered(10))
        consumer = bench.log.consumer("g", ["events"])
        assert consumer.committed() == {EVENTS: 0}
        bench.drain(consumer)
        consumer.commit({EVENTS: 4})
        assert consumer.committed() == {EVENTS: 4}
        assert consumer.positions() == {EVENTS: 10}

    @pytest.mark.parametrize("offset", [-1, 11])
    def test_an_offset_that_cannot_be_is_refused(self, bench: Bench, offset: int) -> None:
        bench.log.append("events", numbered(10))
        consumer = bench.log.consumer("g", ["events"])
        with pytest.raises(OffsetOutOfRangeError, match="expected 0 to 10"):
            consumer.commit({EVENTS: offset})
        with pytest.raises(OffsetOutOfRangeError, match=f"offset {offset}"):
            consumer.seek({EVENTS: offset})

    def test_a_partition_that_is_not_held_is_refused(self, bench: Bench) -> None:
        consumer = bench.log.consumer("g", ["images"])
        with pytest.raises(NotOwnedError, match=r"events\[0\]"):
            consumer.commit({EVENTS: 0})
        with pytest.raises(NotOwnedError, match=r"events\[0\]"):
            consumer.seek({EVENTS: 0})

    def test_seek_reads_again_from_there(self, bench: Bench) -> None:
        bench.log.append("events", numbered(10))
        consumer = bench.log.consumer("g", ["events"])
        bench.drain(consumer)
        consumer.seek({EVENTS: 7})
        assert values(bench.drain(consumer)) == [7, 8, 9]

    def test_lag_counts_what_waits(self, bench: Bench) -> None:
        bench.log.append("images", numbered(10))
        consumer = bench.log.consumer("g", ["images"])
        assert consumer.lag() == 10
        consumer.poll(max_messages=4, max_bytes=1000, timeout_s=bench.patience_s)
        assert consumer.lag() == 6
        bench.drain(consumer)
        assert consumer.lag() == 0

    def test_a_fresh_group_starts_at_the_earliest_message(self, bench: Bench) -> None:
        bench.log.append("images", numbered(10))
        assert len(bench.drain(bench.log.consumer("g", ["images"]))) == 10

    def test_a_fresh_group_may_start_at_the_latest_and_misses_nothing_after(
        self, bench: Bench
    ) -> None:
        bench.log.append("events", numbered(10))
        bench.log.consumer("g", ["events"], start="latest").close()
        bench.log.append("events", numbered(2, first=10))
        consumer = bench.log.consumer("g", ["events"], start="latest")
        assert values(bench.drain(consumer)) == [10, 11]

    def test_a_message_of_8_mb_passes_unchanged(self, bench: Bench) -> None:
        value = bytes(range(256)) * 32768
        bench.log.append("images", [NewMessage("big", value)])
        (message,) = bench.drain(bench.log.consumer("g", ["images"]))
        assert message.value == value

    def test_a_message_beyond_the_topics_limit_is_refused_with_its_batch(
        self, bench: Bench
    ) -> None:
        batch = [NewMessage("small", b"x"), NewMessage("big", bytes(9_000_000))]
        with pytest.raises(MessageTooLargeError, match="at most 9000000") as caught:
            bench.log.append("images", batch)
        assert caught.value.size_bytes == 9_000_003
        assert bench.drain(bench.log.consumer("g", ["images"])) == []

    def test_empty_values_and_headers_of_any_bytes_pass_unchanged(self, bench: Bench) -> None:
        headers = {"any": bytes(range(256)), "empty": b"", "naïve": b"\xff\x00"}
        bench.log.append("images", [NewMessage("", b"", headers), NewMessage("schlüssel\0", b"")])
        received = {each.key: each for each in bench.drain(bench.log.consumer("g", ["images"]))}
        assert received[""].value == b""
        assert received[""].headers == headers
        assert received["schlüssel\0"].headers == {}

    def test_an_unknown_topic_is_refused_everywhere(self, bench: Bench) -> None:
        with pytest.raises(UnknownTopicError, match="expected one of events, images"):
            bench.log.append("imagse", numbered(1))
        with pytest.raises(UnknownTopicError, match="imagse"):
            bench.log.consumer("g", ["images", "imagse"])
        with pytest.raises(UnknownTopicError, match="imagse"):
            bench.log.read(TopicPartition("imagse", 0), offset=0, limit=1)
        with pytest.raises(UnknownTopicError, match=r"images\[4\]"):
            bench.log.read(TopicPartition("images", 4), offset=0, limit=1)

    def test_a_consumer_reads_several_topics(self, bench: Bench) -> None:
        bench.log.append("images", numbered(5))
        bench.log.append("events", numbered(5))
        received = bench.drain(bench.log.consumer("g", ["images", "events"]))
        assert sorted(each.topic for each in received) == ["events"] * 5 + ["images"] * 5

    def test_members_get_only_partitions_of_their_own_topics(self, bench: Bench) -> None:
        images = bench.log.consumer("g", ["images"])
        both = bench.log.consumer("g", ["images", "events"])
        bench.settle()
        for consumer in (images, both):
            bench.drain(consumer)
        assert EVENTS in both.positions()
        assert {each.topic for each in images.positions()} == {"images"}
        assert len(images.positions()) + len(both.positions()) == 5

    def test_poll_honours_its_limits_yet_always_makes_progress(self, bench: Bench) -> None:
        bench.log.append("events", [NewMessage("k", bytes(1000)) for _ in range(10)])
        consumer = bench.log.consumer("g", ["events"])
        assert len(consumer.poll(max_messages=3, max_bytes=10**6, timeout_s=bench.patience_s)) == 3
        assert len(consumer.poll(max_messages=9, max_bytes=2500, timeout_s=bench.patience_s)) == 2
        assert len(consumer.poll(max_messages=9, max_bytes=10, timeout_s=bench.patience_s)) == 1

    def test_a_full_partition_does_not_starve_the_others(self, bench: Bench) -> None:
        bench.log.append("images", numbered(400))
        consumer = bench.log.consumer("g", ["images"])
        polls = [
            consumer.poll(max_messages=5, max_bytes=10**6, timeout_s=bench.patience_s)
            for _ in range(4)
        ]
        assert {each.partition for batch in polls for each in batch} == {0, 1, 2, 3}

    def test_poll_of_an_empty_log_returns_in_time(self, bench: Bench) -> None:
        consumer = bench.log.consumer("g", ["images"])
        started = time.monotonic()
        assert consumer.poll(**MANY, timeout_s=0.2) == ()
        assert 0.19 <= time.monotonic() - started < 1.5

    def test_poll_refuses_limits_that_make_no_sense(self, bench: Bench) -> None:
        consumer = bench.log.consumer("g", ["images"])
        with pytest.raises(ValueError, match="expected at least 1"):
            consumer.poll(max_messages=0, max_bytes=1, timeout_s=bench.patience_s)

    def test_read_gives_the_offsets_asked_for_and_no_others(self, bench: Bench) -> None:
        bench.log.append("events", numbered(10))
        assert values(bench.log.read(EVENTS, offset=8, limit=5)) == [8, 9]
        assert values(bench.log.read(EVENTS, offset=2, limit=3)) == [2, 3, 4]
        assert bench.log.read(EVENTS, offset=10, limit=5) == ()

    def test_a_closed_consumer_or_log_says_so_and_closes_twice(self, bench: Bench) -> None:
        consumer = bench.log.consumer("g", ["images"])
        for _ in range(2):
            consumer.close()
        with pytest.raises(LogClosedError, match="is closed"):
            consumer.poll(**MANY, timeout_s=bench.patience_s)
        for _ in range(2):
            bench.log.close()
        with pytest.raises(LogClosedError, match="is closed"):
            bench.log.append("images", numbered(1))
        with pytest.raises(LogClosedError, match="is closed"):
            bench.log.consumer("g", ["images"])
        with pytest.raises(LogClosedError, match="is closed"):
            bench.log.read(EVENTS, offset=0, limit=1)
        with pytest.raises(LogClosedError):
            bench.log.bounds(EVENTS)
