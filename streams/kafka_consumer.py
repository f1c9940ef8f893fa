"""A consumer of a Kafka group whose owner may stay away for long steps.

A thread of its own, the keeper, takes part in the group: heartbeats go on and divisions of the
group are joined whatever the owner does, and nothing is fetched meanwhile. The owner meets the
outcome at its next `poll`; a commit for a partition that was lost since is refused. An owner that
neither polled nor called `heartbeat` for `max_poll_interval_s` is taken for hung: the keeper leaves
the group. `streams.log` says what each method promises. Knows nothing of the wire.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from streams.backlog import Backlog
from streams.consumer import Subscription
from streams.errors import (
    BrokerUnavailableError,
    LogClosedError,
    NotOwnedError,
    OffsetOutOfRangeError,
    StreamError,
)
from streams.kafka_member import DIVIDED_ANEW, TAKEN_OVER, KafkaMember
from streams.kafka_settings import KafkaSettings
from streams.message import Message, TopicPartition

log = logging.getLogger(__name__)

LAPSED = "it was silent beyond the session timeout (max_poll_interval_s) and left"
# A join that this cuts off is begun anew; closing waits for it.
_JOIN_SLICE_S = 5.0
_FETCH_SLICE_S = 0.25
_RETRY_S = 0.2
_PROBE_AFTER_S = 1.0


class KafkaGroupConsumer:
    """See `streams.log.Consumer`.

    Args:
        member: of the group; closed with this consumer.
        subscription: what the member reads, and where a new group starts.
        settings: of the cluster.
        now: seconds, for the owner's silence.

    Raises:
        BrokerUnavailableError: the group cannot be joined.
    """

    def __init__(
        self,
        member: KafkaMember,
        subscription: Subscription,
        settings: KafkaSettings,
        now: Callable[[], float],
    ) -> None:
        self._member = member
        self._subscription = subscription
        self._settings = settings
        self._now = now
        self._seen_s = now()
        self._free = threading.Condition(threading.RLock())
        self._wake = threading.Event()
        self._joining = self._lapsed = self._closed = False
        self._trouble = "the group is still being divided"
        self._contact_s = time.monotonic()
        self._positions: dict[TopicPartition, int] = {}
        self._backlog = Backlog()
        self._keeper = threading.Thread(target=self._keep, name="kafka-keeper", daemon=True)
        self._keeper.start()
        try:
            with self._free:
                # A member that died holds the division up until its session times out.
                self._settle_or_fail(settings.session_timeout_s + settings.request_timeout_s)
                self._adopt()
        except BaseException:
            self.close()
            raise

    def poll(self, *, max_messages: int, max_bytes: int, timeout_s: float) -> tuple[Message, ...]:
        """See `streams.log.Consumer.poll`."""
        if max_messages < 1 or timeout_s < 0:
            raise ValueError(
                f"max_messages {max_messages}, timeout_s {timeout_s}; expected at least 1 and 0"
            )
        deadline = time.monotonic() + timeout_s
        while True:
            with self._free:
                self._check_open()
                self._come_back()
                if self._settle(deadline - time.monotonic()):
                    self._adopt()
                    self._fetch(deadline - time.monotonic())
                messages = self._take(max_messages, max_bytes)
            if messages:
                return messages
            self._probe()
            if time.monotonic() >= deadline:
                return ()

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `streams.log.Consumer.commit`."""
        with self._free:
            self._check_standing()
            deadline = time.monotonic() + self._settings.request_timeout_s
            while not self._try_commit(offsets, deadline - time.monotonic()):
                self._free.wait(_RETRY_S)

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `streams.log.Consumer.seek`."""
        with self._free:
            self._check_standing()
            self._settle_or_fail(self._settings.request_timeout_s)
            self._check_held(offsets)
            for partition, offset in offsets.items():
                self._go_to(partition, offset)

    def committed(self) -> Mapping[TopicPartition, int]:
        """See `streams.log.Consumer.committed`."""
        with self._free:
            self._check_open()
            self._settle_or_fail(self._settings.request_timeout_s)
            found = {each: self._member.committed(each) for each in sorted(self._positions)}
        return {each: offset for each, offset in found.items() if offset is not None}

    def positions(self) -> Mapping[TopicPartition, int]:
        """See `streams.log.Consumer.positions`."""
        with self._free:
            return dict(sorted(self._positions.items()))

    def lag(self) -> int:
        """See `streams.log.Consumer.lag`."""
        with self._free:
            self._check_open()
            bounds = self._member.bounds(self._positions)
            return sum(
                max(0, bounds[each].end - max(position, bounds[each].first))
                for each, position in self._positions.items()
            )

    @property
    def waiting_bytes(self) -> int:
        """Size of what was fetched and not yet handed out."""
        return self._backlog.size_bytes

    def heartbeat(self) -> None:
        """See `streams.log.Consumer.heartbeat`."""
        with self._free:
            self._check_standing()
            self._touch()

    def close(self) -> None:
        """See `streams.log.Consumer.close`."""
        with self._free:
            if self._closed:
                return
            self._closed = True
            self._positions = {}
        self._wake.set()
        self._keeper.join()
        self._member.close()

    # The keeper: the only one that joins, and without the lock, so that the owner need not wait.

    def _keep(self) -> None:
        while True:
            self._wake.wait(self._settings.heartbeat_interval_s / 2)
            self._wake.clear()
            with self._free:
                if self._closed:
                    return
                self._joining = self._is_join_due()
            if self._joining:
                self._join()

    def _is_join_due(self) -> bool:
        if self._silent_too_long():
            self._lapsed = True
        if self._lapsed and self._member.inside:
            log.warning("group %r: %s", self._subscription.group, LAPSED)
            self._leave()
        return not (self._lapsed or self._member.fenced)

    def _join(self) -> None:
        failed = False
        try:
            self._member.join(_JOIN_SLICE_S)
        except StreamError as exc:
            self._trouble, failed = str(exc), True
        finally:
            with self._free:
                self._joining = False
                self._free.notify_all()
        if failed:
            time.sleep(_RETRY_S)

    def _leave(self) -> None:
        try:
            self._member.leave()
        except StreamError as exc:
            log.debug("leaving failed, the session will time out: %s", exc)

    # What the owner does, with the lock held.

    def _settle(self, wait_s: float) -> bool:
        """Wait for the keeper to join; False when the group is still being divided."""
        deadline = time.monotonic() + wait_s
        while True:
            self._check_open()
            if not self._joining:
                self._check_name()
                if self._member.settled:
                    return True
            self._wake.set()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._free.wait(left_s)

    def _settle_or_fail(self, wait_s: float) -> None:
        if not self._settle(wait_s):
            raise BrokerUnavailableError(self._settings.where, self._trouble)

    def _try_commit(self, offsets: Mapping[TopicPartition, int], wait_s: float) -> bool:
        self._settle_or_fail(wait_s)
        self._check_held(offsets)
        if not offsets or self._member.commit(offsets):
            return True
        if wait_s <= 0:
            raise BrokerUnavailableError(self._settings.where, self._trouble)
        return False

    def _come_back(self) -> None:
        """Note that the owner is there; after a lapse, join again."""
        if not self._lapsed and not self._silent_too_long():
            self._touch()
            return
        self._free.wait_for(lambda: not self._joining)
        if self._member.inside:
            self._leave()
        self._forget(list(self._positions))
        self._member.enter()
        self._lapsed = False
        self._seen_s = self._now()

    def _touch(self) -> None:
        away_s = self._now() - self._seen_s
        if away_s > self._settings.step_budget_s:
            log.warning(
                "%.0f s without a poll or heartbeat, more than step_budget_s (%g); after %g s the "
                "partitions are lost: take shorter steps or raise max_poll_interval_s",
                away_s,
                self._settings.step_budget_s,
                self._settings.max_poll_interval_s,
            )
        self._seen_s = self._now()

    def _silent_too_long(self) -> bool:
        return self._now() - self._seen_s > self._settings.max_poll_interval_s

    def _adopt(self) -> None:
        """Let go of what was lost since the last poll, and begin with what was gained."""
        held = self._member.held
        self._forget({*self._positions} - held | self._member.revoked)
        self._member.forget_revoked()
        for partition in sorted(held - self._positions.keys()):
            start = self._start_of(partition)
            if start is not None:
                self._go_to(partition, start)

    def _start_of(self, partition: TopicPartition) -> int | None:
        """What the group committed; a group that is new here is given its start, for good."""
        committed = self._member.committed(partition)
        if committed is not None:
            return committed
        bounds = self._member.bounds([partition])[partition]
        start = bounds.first if self._subscription.start == "earliest" else bounds.end
        return start if self._member.commit({partition: start}) else None

    def _go_to(self, partition: TopicPartition, offset: int) -> None:
        self._member.seek(partition, offset)
        self._backlog.drop(partition)
        self._positions[partition] = offset

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._backlog.drop(partition)

    def _fetch(self, wait_s: float) -> None:
        """Bring in what came; wait for it, a little, only when there is nothing to hand out."""
        if self._backlog.size_bytes >= self._settings.fetch_bytes:
            return
        wait_s = 0.0 if len(self._backlog) else min(max(0.0, wait_s), _FETCH_SLICE_S)
        fetched = self._member.fetch(wait_s)
        if fetched:
            self._contact_s = time.monotonic()
        # The fetch may have met a new division: what it took away is begun anew by `_adopt`.
        self._forget(self._member.revoked)
        for partition, messages in fetched.items():
            if partition in self._positions:
                self._backlog.add(partition, messages)

    def _take(self, max_messages: int, max_bytes: int) -> tuple[Message, ...]:
        messages = self._backlog.take(max_messages, max_bytes)
        for message in messages:
            self._positions[message.topic_partition] = message.offset + 1
        return messages

    def _probe(self) -> None:
        """Silence of the cluster is told from an empty log by asking."""
        if time.monotonic() - self._contact_s < _PROBE_AFTER_S:
            return
        some = TopicPartition(self._subscription.topics[0], 0)
        self._member.bounds([some])
        self._contact_s = time.monotonic()

    # Checks

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosedError(f"consumer {self._subscription.member!r}")

    def _check_standing(self) -> None:
        self._check_open()
        if not self._joining:
            self._check_name()
        if self._lapsed or self._silent_too_long():
            self._lapsed = True
            self._wake.set()
            raise self._not_owned(LAPSED)

    def _check_name(self) -> None:
        if self._member.fenced:
            raise self._not_owned(TAKEN_OVER)

    def _check_held(self, offsets: Mapping[TopicPartition, int]) -> None:
        lost = self._member.revoked | (self._positions.keys() - self._member.held)
        for partition, offset in offsets.items():
            if partition not in self._positions:
                raise self._not_owned(f"it does not hold {partition}")
            if partition in lost:
                raise self._not_owned(f"{DIVIDED_ANEW}, and {partition} was taken away")
            if not 0 <= offset <= self._positions[partition]:
                end = self._member.bounds([partition])[partition].end
                if not 0 <= offset <= end:
                    raise OffsetOutOfRangeError(str(partition), offset=offset, end=end)

    def _not_owned(self, reason: str) -> NotOwnedError:
        return NotOwnedError(self._subscription.group, self._subscription.member, reason)
