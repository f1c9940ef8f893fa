"""A log under test and its time, and short ways to fill and empty it. Knows nothing of any contract."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from streams import (
    Consumer,
    Log,
    LogUnavailableError,
    Message,
    NewMessage,
    TopicPartition,
    parse_topics,
)

SESSION_TIMEOUT_S = 10.0
RETENTION_S = 100
_LIMITS = {"retention_s": RETENTION_S, "retention_bytes": 4_000_000, "max_message_bytes": 9_000_000}
TOPICS = parse_topics(
    {"images": {"partitions": 4, **_LIMITS}, "events": {"partitions": 1, **_LIMITS}},
    source="tests",
)
EVENTS = TopicPartition("events", 0)
_SLICE_S = 0.5
MANY = {"max_messages": 10_000, "max_bytes": 100_000_000}


@dataclass(frozen=True)
class Bench:
    """A log, a way to let time pass for its leases, and how soon it shows what was done to it.

    A log behind a network hands out what it has within `patience_s`, and its members have heard
    of each other when `settle` returns. The others do both at once.
    """

    log: Log
    pass_time: Callable[[float], None]
    patience_s: float = 0.0
    settle: Callable[[], None] = lambda: None

    def drain(self, consumer: Consumer) -> list[Message]:
        """Everything that waits for this consumer now."""
        return drain(consumer, self.patience_s)


@dataclass(frozen=True)
class DurableBench(Bench):
    """A log that outlives its process: `expire` ends the retention of all messages so far, and the
    log cannot be written inside `outage`."""

    expire: Callable[[], None] = field(kw_only=True)
    outage: Callable[[], AbstractContextManager[None]] = field(kw_only=True)


def numbered(count: int, *, first: int = 0, keys: int = 10) -> list[NewMessage]:
    """Messages whose values count up, under `keys` different keys."""
    return [NewMessage(f"key-{n % keys}", str(n).encode()) for n in range(first, first + count)]


def drain(consumer: Consumer, patience_s: float = 0.0) -> list[Message]:
    """Everything that waits for this consumer now."""
    messages: list[Message] = []
    deadline = time.monotonic() + patience_s
    while True:
        batch = consumer.poll(**MANY, timeout_s=min(patience_s, _SLICE_S))
        messages += batch
        if not batch and (consumer.lag() == 0 or time.monotonic() >= deadline):
            return messages


def values(messages: Sequence[Message]) -> list[int]:
    """The numbers of `numbered`, sorted."""
    return sorted(int(message.value) for message in messages)


def collect(consumer: Consumer, count: int, within_s: float = 30.0) -> set[int]:
    """Read until so many of the numbers from 0 on have come, through outages."""
    received: set[int] = set()
    deadline = time.monotonic() + within_s
    while sum(each >= 0 for each in received) < count and time.monotonic() < deadline:
        with suppress(LogUnavailableError):
            received.update(values(consumer.poll(**MANY, timeout_s=0.5)))
    return received


def commit_all(consumer: Consumer) -> None:
    """Commit what was read."""
    consumer.commit(consumer.positions())
