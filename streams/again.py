"""Messages of a topic once more: which part of it, and in which order.

Knows nothing of what messages mean, of groups, or of where they are sent.
"""

import heapq
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from streams.log import Log
from streams.message import Message, NewMessage, TopicPartition
from streams.topics import Topics

PAGE_MESSAGES = 8  # read at once from each partition: they may be 10 MiB each
_PART = re.compile(r"(?:(?P<partition>\d+)/)?(?P<first>\d*):(?P<end>\d*)")


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a partition.

    Attributes:
        partition: of which.
        first: the first offset.
        end: one after the last.
    """

    partition: TopicPartition
    first: int
    end: int

    @property
    def length(self) -> int:
        """How many offsets; the messages of some may be gone."""
        return max(0, self.end - self.first)


def spans(log: Log, topics: Topics, topic: str, offsets: str = "") -> list[Span]:
    """What is now in a topic, or that part of it; messages that come later do not belong to it.

    Args:
        log: where from.
        topics: the table of topics.
        topic: which one.
        offsets: comma list of `[PARTITION/][FIRST]:[END]`, the end not included. Without a partition it
            is meant for each; once one is named, only those named are read. Empty: everything.

    Raises:
        ValueError: the list cannot be read.
        UnknownTopicError: no such topic or partition.
    """
    found = []
    for partition, first, end in _parse(offsets or ":", topics, topic):
        topics.check_partition(partition)
        kept = log.bounds(partition)
        last = kept.end if end is None else min(end, kept.end)
        found.append(Span(partition, max(first, kept.first), last))
    return found


def in_order(log: Log, parts: Iterable[Span]) -> Iterator[Message]:
    """Each partition in its order, and the partitions merged by the time their messages were stored."""
    lanes = [_lane(log, part) for part in parts]
    return heapq.merge(*lanes, key=lambda m: (m.timestamp_s, m.partition, m.offset))


def shuffled(log: Log, parts: Sequence[Span], seed: int) -> Iterator[Message]:
    """Each message once, in an order drawn from the seed; they are read one by one."""
    places = [(part.partition, offset) for part in parts for offset in range(part.first, part.end)]
    random.Random(seed).shuffle(places)
    for partition, offset in places:
        yield from log.read(partition, offset=offset, limit=1)


def resent(message: Message) -> NewMessage:
    """The same key, value and headers, to append."""
    return NewMessage(message.key, message.value, dict(message.headers))


def _lane(log: Log, part: Span) -> Iterator[Message]:
    for offset in range(part.first, part.end, PAGE_MESSAGES):
        yield from log.read(
            part.partition, offset=offset, limit=min(PAGE_MESSAGES, part.end - offset)
        )


def _parse(
    offsets: str, topics: Topics, topic: str
) -> Iterator[tuple[TopicPartition, int, int | None]]:
    parts = [_PART.fullmatch(part.strip()) for part in offsets.split(",")]
    matched = [part for part in parts if part is not None]
    named = [int(part["partition"]) for part in matched if part["partition"]]
    alone = len(parts) == 1
    if len(matched) < len(parts) or not (alone or len(set(named)) == len(parts)):
        raise ValueError(
            f"got the offsets {offsets!r}; expected [PARTITION/][FIRST]:[END], or a comma list of them with "
            "a different partition in each, for example 100:200 or 0/100:,2/:50"
        )
    for part in matched:
        end = int(part["end"]) if part["end"] else None
        chosen = (
            [TopicPartition(topic, int(part["partition"]))]
            if part["partition"]
            else topics.partitions([topic])
        )
        for partition in chosen:
            yield partition, int(part["first"] or 0), end
