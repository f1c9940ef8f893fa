"""One membership of a Kafka group: kafka-python's consumer, and what it does not tell.

Not thread-safe: `streams.kafka_consumer` sees to that. What is used here of kafka-python's private
names has no public twin in 3.0: whether a rejoin is due, whether the member was fenced (its
heartbeats just stop), and joining and fetching apart from each other (the public `poll` does both,
and throws away a join that ends between two calls of it, so that short polls need not ever join).
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import kafka
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.structs import MemberState, OffsetAndMetadata

from streams.consumer import Bounds, Subscription
from streams.errors import NotOwnedError
from streams.kafka_client import (
    broker_errors,
    client_options,
    connect,
    message_of,
    milliseconds,
    ours,
    theirs,
)
from streams.kafka_settings import KafkaSettings
from streams.message import Message, TopicPartition

TAKEN_OVER = "another consumer took this member's name"
_IDLE_S = 0.05
DIVIDED_ANEW = "the group was divided anew since the last poll"


class KafkaMember:
    """A client that takes part in a group, and knows no messages it was not asked for.

    Args:
        settings: of the cluster.
        subscription: whose offsets, and which topics.
        named: whether the member's name outlives this process (a static member).

    Raises:
        BrokerUnavailableError: no broker answers.
    """

    def __init__(self, settings: KafkaSettings, subscription: Subscription, *, named: bool) -> None:
        self._settings = settings
        self._subscription = subscription
        self._revoked: set[TopicPartition] = set()
        self._taken_over = False
        self.inside = True
        with broker_errors(settings):
            self._client = connect(kafka.KafkaConsumer, _options(settings, subscription, named))
            self.enter()

    @property
    def settled(self) -> bool:
        """Whether this member holds its share, with no division of the group under way."""
        coordinator = self._client._coordinator
        return coordinator.state is MemberState.STABLE and not coordinator.need_rejoin()

    @property
    def fenced(self) -> bool:
        """Whether another consumer joined under this member's name; not to be asked while joining."""
        coordinator = self._client._coordinator
        stopped = self.settled and not coordinator._heartbeat_enabled
        self._taken_over = self._taken_over or stopped
        return self._taken_over

    @property
    def held(self) -> set[TopicPartition]:
        """The partitions assigned to this member now."""
        return {ours(each) for each in self._client.assignment()}

    @property
    def revoked(self) -> frozenset[TopicPartition]:
        """Partitions that were lost, if only for a moment, since `forget_revoked`."""
        return frozenset(self._revoked)

    def forget_revoked(self) -> None:
        """Begin to count anew."""
        self._revoked.clear()

    def join(self, wait_s: float) -> None:
        """Take part in the division of the group; nothing happens when it is settled."""
        with self._errors():
            self._client._coordinator.poll(timeout_ms=milliseconds(wait_s))

    def fetch(self, wait_s: float) -> Mapping[TopicPartition, list[Message]]:
        """What came for the partitions held, in order of offset; takes no part in the group.

        This is the client's own `poll` without its first line, which would begin a join here.
        """
        fetcher = self._client._fetcher
        with self._errors():
            fetcher.reset_offsets_if_needed()
            fetcher.maybe_validate_positions()
            fetcher.validate_offsets_if_needed()
            records, idle = fetcher.fetch_records(timeout_ms=milliseconds(wait_s))
            if idle and not records:  # nothing is held, or nothing is known of it yet
                time.sleep(min(wait_s, _IDLE_S))
        return {
            ours(each): [message_of(record) for record in some] for each, some in records.items()
        }

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Fetch from there on.

        Raises:
            NotOwnedError: the partition is not held.
        """
        try:
            self._client.seek(theirs(partition), offset)
        except ValueError as exc:
            raise self._not_owned(DIVIDED_ANEW) from exc

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Keep the group's offsets; False while the group is being divided anew.

        Raises:
            NotOwnedError: the membership was lost.
        """
        table = {theirs(each): OffsetAndMetadata(at, "", -1) for each, at in offsets.items()}
        with self._errors():
            try:
                self._client.commit(table, timeout_ms=self._timeout_ms)
            except RebalanceInProgressError:
                return False
        return True

    def committed(self, partition: TopicPartition) -> int | None:
        """Where the group would resume; None where it never was."""
        with self._errors():
            offset: int | None = self._client.committed(
                theirs(partition), timeout_ms=self._timeout_ms
            )
        return offset

    def bounds(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """First and end offset of each; safe beside any other call."""
        wanted = [theirs(each) for each in partitions]
        if not wanted:
            return {}
        with self._errors():
            first = self._client.beginning_offsets(wanted, timeout_ms=self._timeout_ms)
            end = self._client.end_offsets(wanted, timeout_ms=self._timeout_ms)
        return {ours(each): Bounds(first[each], end[each]) for each in wanted}

    def enter(self) -> None:
        """Subscribe; `join` then does the rest."""
        self._client.subscribe(
            list(self._subscription.topics), listener=_Revocations(self._revoked)
        )
        self.inside = True

    def leave(self) -> None:
        """Leave the group; a named member's partitions stay its own until the session times out."""
        self.inside = False
        with self._errors():
            self._client.unsubscribe()

    def close(self) -> None:
        """Leave the group and let go of the connections."""
        with broker_errors(self._settings):
            self._client.close(autocommit=False, timeout_ms=self._timeout_ms)

    @property
    def _timeout_ms(self) -> int:
        return milliseconds(self._settings.request_timeout_s)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with broker_errors(self._settings):
            try:
                yield
            except FencedInstanceIdError as exc:
                self._taken_over = True
                raise self._not_owned(TAKEN_OVER) from exc
            except (CommitFailedError, IllegalGenerationError, UnknownMemberIdError) as exc:
                raise self._not_owned(DIVIDED_ANEW) from exc

    def _not_owned(self, reason: str) -> NotOwnedError:
        return NotOwnedError(self._subscription.group, self._subscription.member, reason)


class _Revocations(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what was lost, on the client's own thread."""

    def __init__(self, revoked: set[TopicPartition]) -> None:
        self._revoked = revoked

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._revoked.update(map(ours, revoked))

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self._revoked.update(map(ours, lost))

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """What is gained is asked for with `held`."""


def _options(settings: KafkaSettings, subscription: Subscription, named: bool) -> dict[str, Any]:
    return client_options(settings) | {
        "group_id": subscription.group,
        "group_instance_id": subscription.member if named else None,
        "enable_auto_commit": False,
        # Where a message is gone, the first one after it. Where a group begins is set by seeking.
        "auto_offset_reset": "earliest",
        "partition_assignment_strategy": [CooperativeStickyAssignor],
        "session_timeout_ms": milliseconds(settings.session_timeout_s),
        "heartbeat_interval_ms": milliseconds(settings.heartbeat_interval_s),
        # Of the keeper, which polls all the time; a division waits so long for one that is stuck.
        # `max_poll_interval_s` is the owner's, and `streams.kafka_consumer` watches it.
        "max_poll_interval_ms": milliseconds(
            max(settings.session_timeout_s, 2 * settings.request_timeout_s)
        ),
        "max_poll_records": 2**31 - 1,
        "fetch_max_bytes": settings.fetch_bytes,
        "max_partition_fetch_bytes": max(1, settings.fetch_bytes // 4),
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
