"""Claims about the queue between a fetch and a poll."""

from streams.backlog import Backlog
from streams.message import Message, TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


def messages(partition: TopicPartition, count: int, size: int = 10) -> list[Message]:
    return [
        Message(partition.topic, partition.partition, n, "", bytes(size), {}, 0.0)
        for n in range(count)
    ]


def test_partitions_take_turns_and_keep_their_order() -> None:
    backlog = Backlog()
    backlog.add(A, messages(A, 100))
    backlog.add(B, messages(B, 100))
    taken = [backlog.take(5, 10**6) for _ in range(4)]
    assert {each.partition for batch in taken for each in batch} == {0, 1}
    for number in (0, 1):
        offsets = [e.offset for batch in taken for e in batch if e.partition == number]
        assert offsets == [*range(10)]


def test_limits_hold_but_for_a_first_message_that_alone_is_too_large() -> None:
    backlog = Backlog()
    backlog.add(A, messages(A, 4, size=100))
    assert len(backlog.take(10, 250)) == 2
    assert len(backlog.take(10, 1)) == 1
    assert len(backlog.take(10, 1)) == 1
    assert backlog.take(10, 1) == ()


def test_its_size_is_that_of_what_waits() -> None:
    backlog = Backlog()
    backlog.add(A, messages(A, 3))
    backlog.add(B, messages(B, 2))
    backlog.take(1, 100)
    assert (len(backlog), backlog.size_bytes) == (4, 40)
    backlog.drop(A)
    backlog.drop(A)
    assert len(backlog) * 10 == backlog.size_bytes
    while backlog.take(1, 100):
        pass
    assert (len(backlog), backlog.size_bytes) == (0, 0)
