"""One member of a consumer group, over any store that this process or host shares.

Knows nothing of how the store keeps messages. `streams.log` says what each method promises.
"""

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Literal, Protocol

from streams import groups
from streams.errors import LogBusyError, LogClosedError, NotOwnedError, OffsetOutOfRangeError
from streams.groups import Group, Member
from streams.message import Message, TopicPartition
from streams.topics import Topics

Start = Literal["earliest", "latest"]

_WAIT_STEP_S = 0.05


@dataclass(frozen=True, slots=True)
class Bounds:
    """The first offset kept, and the one that the next message will have."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who reads what, and for how long it may be silent."""

    group: str
    member: str
    topics: tuple[str, ...]
    start: Start
    session_timeout_s: float


class Store(Protocol):
    """What a consumer needs of a log's storage."""

    topics: Topics

    def transaction(self, wait_s: float | None) -> AbstractContextManager[None]:
        """Exclusive use, all or nothing; waits `wait_s` for it, or as long as is usual."""

    def group(self, name: str) -> Group:
        """The group as last saved; an empty one of generation 0 if never."""

    def save_group(self, name: str, group: Group) -> None:
        """Keep the group."""

    def register(self, group: str, topics: tuple[str, ...], start: Start) -> None:
        """Fix where the group starts, in partitions where it has no offset yet."""

    def committed(self, group: str) -> Mapping[TopicPartition, int]:
        """Every offset the group has."""

    def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Keep the group's offsets."""

    def bounds(self, partition: TopicPartition) -> Bounds:
        """The partition's first and end offset."""

    def scan(
        self, partition: TopicPartition, *, offset: int, limit: int
    ) -> Generator[Message, None, None]:
        """Messages from `offset` on, at most `limit`, one at a time."""

    def wait(self, timeout_s: float) -> None:
        """Return when messages may have come, or after the time."""

    def close(self) -> None:
        """Let go of what this store object holds."""


class StoreConsumer:
    """A group member whose membership, offsets and messages lie in a `Store`."""

    def __init__(self, store: Store, subscription: Subscription, now: Callable[[], float]) -> None:
        self._store = store
        self._subscription = subscription
        self._now = now
        self._lock = threading.RLock()
        self._positions: dict[TopicPartition, int] = {}
        self._epoch = 0
        self._generation = 0
        self._turn = 0
        self._closed = False
        with store.transaction(None):
            store.register(subscription.group, subscription.topics, subscription.start)
            group = self._join(store.group(subscription.group))
        self._adopt(group)

    def poll(self, *, max_messages: int, max_bytes: int, timeout_s: float) -> tuple[Message, ...]:
        """See `streams.log.Consumer.poll`."""
        if max_messages < 1 or timeout_s < 0:
            raise ValueError(
                f"max_messages {max_messages}, timeout_s {timeout_s}; expected at least 1 and 0"
            )
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                self._sync(max(0.0, deadline - time.monotonic()))
                messages = self._fetch(max_messages, max_bytes)
            left_s = deadline - time.monotonic()
            if messages or left_s <= 0:
                return messages
            self._store.wait(min(left_s, _WAIT_STEP_S))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `streams.log.Consumer.commit`."""
        with self._lock:
            self._check(offsets)
            with self._store.transaction(None):
                group = self._standing()
                if group.generation != self._generation:
                    raise self._not_owned("the group was divided anew since the last poll")
                self._store.commit(self._subscription.group, offsets)

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `streams.log.Consumer.seek`."""
        with self._lock:
            self._check(offsets)
            self._positions.update(offsets)

    def committed(self) -> Mapping[TopicPartition, int]:
        """See `streams.log.Consumer.committed`."""
        with self._lock:
            self._check({})
            offsets = self._store.committed(self._subscription.group)
            return {partition: offsets[partition] for partition in sorted(self._positions)}

    def positions(self) -> Mapping[TopicPartition, int]:
        """See `streams.log.Consumer.positions`."""
        with self._lock:
            return dict(sorted(self._positions.items()))

    def lag(self) -> int:
        """See `streams.log.Consumer.lag`."""
        with self._lock:
            self._check({})
            waiting = 0
            for partition, position in self._positions.items():
                bounds = self._store.bounds(partition)
                waiting += max(0, bounds.end - max(position, bounds.first))
            return waiting

    def heartbeat(self) -> None:
        """See `streams.log.Consumer.heartbeat`."""
        with self._lock:
            self._check({})
            group = self._standing()
            if groups.is_due(group, self._subscription.member, self._now()):
                with self._store.transaction(None):
                    self._renew(self._standing())

    def close(self) -> None:
        """See `streams.log.Consumer.close`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._positions = {}
            try:
                self._leave()
            finally:
                self._store.close()

    def _sync(self, wait_s: float) -> None:
        self._check({})
        name, member, now_s = self._subscription.group, self._subscription.member, self._now()
        group = self._store.group(name)
        me = self._me(group)
        if me is None or groups.is_due(group, member, now_s):
            try:
                with self._store.transaction(wait_s):
                    group = self._store.group(name)
                    group = self._renew(group) if self._me(group) else self._join(group)
            except LogBusyError:
                # Two thirds of the lease are left to renew it in; without one there is no way on.
                if me is None or not me.is_alive(now_s):
                    raise
        self._adopt(group)

    def _join(self, group: Group) -> Group:
        each = self._subscription
        newcomer = Member(each.member, each.topics, 0, self._now(), each.session_timeout_s)
        group = groups.join(group, newcomer)
        self._store.save_group(each.group, group)
        # Others may have read on meanwhile: where this member stood no longer counts.
        self._positions = {}
        self._epoch = group.generation
        return group

    def _renew(self, group: Group) -> Group:
        group = groups.renew(group, self._subscription.member, self._now())
        self._store.save_group(self._subscription.group, group)
        return group

    def _leave(self) -> None:
        name, member = self._subscription.group, self._subscription.member
        with self._store.transaction(None):
            group = self._store.group(name)
            me = group.find(member)
            if me is not None and me.epoch == self._epoch:
                self._store.save_group(name, groups.leave(group, member))

    def _adopt(self, group: Group) -> None:
        if group.generation == self._generation:
            return
        topics = {topic for member in group.members for topic in member.topics}
        shares = groups.assign(group, self._store.topics.partitions(topics))
        committed = self._store.committed(self._subscription.group)
        self._positions = {
            partition: self._positions.get(partition, committed[partition])
            for partition in shares[self._subscription.member]
        }
        self._generation = group.generation

    def _fetch(self, max_messages: int, max_bytes: int) -> tuple[Message, ...]:
        taken: list[Message] = []
        owned = sorted(self._positions)
        # Each poll begins at another partition, so that a full one cannot starve the rest.
        self._turn += 1
        for index in range(len(owned)):
            room = max_messages - len(taken)
            if room == 0:
                break
            partition = owned[(self._turn + index) % len(owned)]
            max_bytes -= self._take(partition, taken, room, max_bytes)
        # Only now, so that a failure above skips nothing.
        self._positions |= {each.topic_partition: each.offset + 1 for each in taken}
        return tuple(taken)

    def _take(
        self, partition: TopicPartition, taken: list[Message], room: int, max_bytes: int
    ) -> int:
        """Add to `taken` what fits, and return its bytes."""
        took_bytes = 0
        scan = self._store.scan(partition, offset=self._positions[partition], limit=room)
        with closing(scan):
            for message in scan:
                if taken and took_bytes + message.size_bytes > max_bytes:
                    break
                taken.append(message)
                took_bytes += message.size_bytes
        return took_bytes

    def _me(self, group: Group) -> Member | None:
        """This member's entry; none where its lease ran out and it was dropped."""
        me = group.find(self._subscription.member)
        if me is not None and me.epoch != self._epoch:
            raise self._not_owned("another consumer took this member's name")
        return me

    def _standing(self) -> Group:
        group = self._store.group(self._subscription.group)
        if self._me(group) is None:
            raise self._not_owned("it was silent beyond the session timeout and was dropped")
        return group

    def _check(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self._closed:
            raise LogClosedError(f"consumer {self._subscription.member!r}")
        for partition, offset in offsets.items():
            if partition not in self._positions:
                raise self._not_owned(f"it does not hold {partition}")
            end = self._store.bounds(partition).end
            if not 0 <= offset <= end:
                raise OffsetOutOfRangeError(str(partition), offset=offset, end=end)

    def _not_owned(self, reason: str) -> NotOwnedError:
        return NotOwnedError(self._subscription.group, self._subscription.member, reason)
