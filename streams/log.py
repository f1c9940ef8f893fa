"""What every log promises, and the log that lives in memory. Knows nothing of files or brokers."""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from streams.consumer import Bounds, Start, StoreConsumer, Subscription
from streams.errors import LogClosedError, MessageTooLargeError
from streams.groups import Group
from streams.message import Message, NewMessage, Position, TopicPartition, partition_of
from streams.topics import Topics, TopicSpec


class Consumer(Protocol):
    """A member of a group, reading its share of the partitions, each in order.

    Delivery is at least once: what was not committed is delivered again after a crash, or when
    its partition goes to another member. Methods may be called from several threads.
    """

    def poll(self, *, max_messages: int, max_bytes: int, timeout_s: float) -> tuple[Message, ...]:
        """Take part in the group, and return what has come.

        Returns early with the first messages and at the latest after `timeout_s`, then empty.
        The first message comes even if it alone is larger than `max_bytes`, so that it cannot
        block its partition. Here only, partitions are gained and lost: a kept one goes on where
        it stood, a gained one starts at what the group committed.

        Raises:
            NotOwnedError: another consumer joined under this member's name.
            LogUnavailableError: the log did not answer.
        """

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Keep, for each partition, the next offset to read; all of them or none.

        Raises:
            NotOwnedError: a partition is not held, or the group was divided anew since `poll`.
            OffsetOutOfRangeError: no message has had the offset or will have it next.
        """

    def committed(self) -> Mapping[TopicPartition, int]:
        """Where the group would resume, for each partition held."""

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Make these the next offsets to read; where a message is gone, the first one after it.

        Raises:
            NotOwnedError: a partition is not held.
            OffsetOutOfRangeError: no message has had the offset or will have it next.
        """

    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset to read of each partition; its keys are the partitions held."""

    def lag(self) -> int:
        """Messages that wait to be read in the partitions held."""

    def heartbeat(self) -> None:
        """Stay a member during a long step, without reading; call it well within the timeout.

        Raises:
            NotOwnedError: the membership is lost, and with it the right to commit this step.
        """

    def close(self) -> None:
        """Leave the group, without a commit; harmless twice."""


class Log(Protocol):
    """Topics of messages, each partition in order of its offsets.

    Methods may be called from several threads.
    """

    def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        """Store the messages, all or none; they are durable when this returns.

        Returns:
            Where each message lies, in the order given.

        Raises:
            UnknownTopicError: the topic is not in the table.
            MessageTooLargeError: a message is larger than the topic allows.
            LogBusyError, LogFullError: nothing was stored.
            LogUnavailableError: it is not known whether; sending again may store it twice.
        """

    def consumer(
        self, group: str, topics: Sequence[str], *, start: Start = "earliest", member: str = ""
    ) -> Consumer:
        """Join a group.

        Args:
            group: whose offsets are used.
            topics: what to read.
            start: where a group that is new to a partition begins, fixed when it first joins.
            member: a name of this consumer that outlives its process: whoever joins under it
                takes the place of its predecessor at once. Empty: a name nobody else has.

        Raises:
            UnknownTopicError: a topic is not in the table.
        """

    def read(self, partition: TopicPartition, *, offset: int, limit: int) -> tuple[Message, ...]:
        """The messages at `offset` to `offset + limit - 1` that still exist, for no group.

        Raises:
            UnknownTopicError: the topic or partition is not in the table.
        """

    def bounds(self, partition: TopicPartition) -> Bounds:
        """The first offset kept, and the one that the next message will have.

        Raises:
            UnknownTopicError: the topic or partition is not in the table.
        """

    def close(self) -> None:
        """Let go of the log; close its consumers first. Harmless twice."""


class MemoryLog:
    """A log in this process's memory: same promises, gone with the process, keeps everything."""

    def __init__(
        self,
        topics: Topics,
        *,
        now: Callable[[], float] = time.time,
        session_timeout_s: float = 10.0,
    ) -> None:
        self._store = _MemoryStore(topics)
        self._now = now
        self._session_timeout_s = session_timeout_s
        self._closed = False

    def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        """See `Log.append`."""
        self._check_open()
        spec = self._store.topics.spec(topic)
        check_sizes(spec, messages)
        with self._store.transaction(None):
            return tuple(self._store.add(spec, message, self._now()) for message in messages)

    def consumer(
        self, group: str, topics: Sequence[str], *, start: Start = "earliest", member: str = ""
    ) -> Consumer:
        """See `Log.consumer`."""
        self._check_open()
        self._store.topics.partitions(topics)
        subscription = Subscription(
            group, member or uuid.uuid4().hex, tuple(topics), start, self._session_timeout_s
        )
        return StoreConsumer(self._store, subscription, self._now)

    def read(self, partition: TopicPartition, *, offset: int, limit: int) -> tuple[Message, ...]:
        """See `Log.read`."""
        self._check_open()
        self._store.topics.check_partition(partition)
        return tuple(self._store.scan(partition, offset=offset, limit=limit))

    def bounds(self, partition: TopicPartition) -> Bounds:
        """See `Log.bounds`."""
        self._check_open()
        self._store.topics.check_partition(partition)
        return self._store.bounds(partition)

    def close(self) -> None:
        """See `Log.close`."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosedError("the in-memory log")


def check_sizes(spec: TopicSpec, messages: Sequence[NewMessage]) -> None:
    """Refuse the messages if one of them is too large.

    Raises:
        MessageTooLargeError: for the first that is.
    """
    for message in messages:
        if message.size_bytes > spec.max_message_bytes:
            raise MessageTooLargeError(
                spec.name, size_bytes=message.size_bytes, limit_bytes=spec.max_message_bytes
            )


class _MemoryStore:
    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self._changed = threading.Condition(threading.RLock())
        self._messages: dict[TopicPartition, list[Message]] = defaultdict(list)
        self._groups: dict[str, Group] = {}
        self._offsets: dict[str, dict[TopicPartition, int]] = defaultdict(dict)

    def add(self, spec: TopicSpec, message: NewMessage, now_s: float) -> Position:
        partition = TopicPartition(spec.name, partition_of(message.key, spec.partitions))
        lane = self._messages[partition]
        headers = dict(message.headers)
        lane.append(
            Message(
                spec.name,
                partition.partition,
                len(lane),
                message.key,
                message.value,
                headers,
                now_s,
            )
        )
        return Position(partition, len(lane) - 1)

    @contextmanager
    def transaction(self, wait_s: float | None) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()

    def group(self, name: str) -> Group:
        return self._groups.get(name, Group())

    def save_group(self, name: str, group: Group) -> None:
        self._groups[name] = group

    def register(self, group: str, topics: tuple[str, ...], start: Start) -> None:
        for partition in self.topics.partitions(topics):
            first = 0 if start == "earliest" else self.bounds(partition).end
            self._offsets[group].setdefault(partition, first)

    def committed(self, group: str) -> Mapping[TopicPartition, int]:
        return dict(self._offsets[group])

    def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        self._offsets[group].update(offsets)

    def bounds(self, partition: TopicPartition) -> Bounds:
        return Bounds(0, len(self._messages[partition]))

    def scan(
        self, partition: TopicPartition, *, offset: int, limit: int
    ) -> Generator[Message, None, None]:
        yield from self._messages[partition][max(0, offset) : max(0, offset + limit)]

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait(timeout_s)

    def close(self) -> None:
        """Nothing is held: the store goes with the log."""
