"""The log on a Kafka cluster, for the processes of many machines.

What it promises less than the other logs: an append of several messages is not atomic. They are
checked before the first is sent, and sent in order and once each (idempotent producer, acks=all);
but where the cluster fails in the middle, some may be stored, each whole. Retention is the
cluster's own and heeds no group. `streams.log` says what each method promises else.

Knows nothing of what messages mean.
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import kafka

from streams.consumer import Bounds, Start, Subscription
from streams.errors import LogClosedError
from streams.kafka_admin import check_partitions
from streams.kafka_client import (
    batch_limit_bytes,
    broker_errors,
    client_options,
    connect,
    message_of,
    milliseconds,
    ours,
    theirs,
)
from streams.kafka_consumer import KafkaGroupConsumer
from streams.kafka_member import KafkaMember
from streams.kafka_settings import KafkaSettings
from streams.log import Consumer, check_sizes
from streams.message import Message, NewMessage, Position, TopicPartition, partition_of
from streams.topics import Topics, TopicSpec

_BATCH_BYTES = 256 * 2**10
_LINGER_S = 0.005
_READ_BYTES = 64 * 2**10
_READ_SLICE_S = 0.25


class KafkaLog:
    """A log on a cluster; see `streams.log.Log` for what each method promises.

    Args:
        settings: of the cluster.
        topics: which must be there, with as many partitions.
        now: seconds, for the silence of consumers' owners.

    Raises:
        BrokerUnavailableError: no broker answers.
        TopicConfigError: a topic is missing or has another number of partitions.
    """

    def __init__(
        self, settings: KafkaSettings, topics: Topics, *, now: Callable[[], float] = time.time
    ) -> None:
        check_partitions(settings, topics)
        self._settings = settings
        self._topics = topics
        self._now = now
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._producer: Any = None
        self._reader: Any = None
        self._consumers: list[KafkaGroupConsumer] = []
        self._closed = False

    def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        """See `streams.log.Log.append`; many messages in one call share their requests."""
        spec = self._topics.spec(topic)
        check_sizes(spec, messages)
        with self._writing:
            self._check_open()
            if not messages:
                return ()
            try:
                with broker_errors(self._settings):
                    return self._send(spec, messages)
            except BaseException:
                # Nothing of a failed append may arrive later, and a new one has sound sequences.
                self._drop_producer()
                raise

    def consumer(
        self, group: str, topics: Sequence[str], *, start: Start = "earliest", member: str = ""
    ) -> Consumer:
        """See `streams.log.Log.consumer`; each consumer has connections and a thread of its own."""
        self._topics.partitions(topics)
        self._check_open()
        settings = self._settings
        subscription = Subscription(
            group, member or uuid.uuid4().hex, tuple(topics), start, settings.session_timeout_s
        )
        joined = KafkaMember(settings, subscription, named=bool(member))
        consumer = KafkaGroupConsumer(joined, subscription, settings, self._now)
        self._consumers.append(consumer)
        return consumer

    def read(self, partition: TopicPartition, *, offset: int, limit: int) -> tuple[Message, ...]:
        """See `streams.log.Log.read`."""
        self._topics.check_partition(partition)
        with self._reading:
            self._check_open()
            with broker_errors(self._settings):
                return self._read(partition, max(0, offset), offset + limit)

    def bounds(self, partition: TopicPartition) -> Bounds:
        """See `streams.log.Log.bounds`."""
        self._topics.check_partition(partition)
        with self._reading:
            self._check_open()
            with broker_errors(self._settings):
                return self._bounds(partition)

    def close(self) -> None:
        """See `streams.log.Log.close`."""
        self._closed = True
        for consumer in self._consumers:
            consumer.close()
        with self._writing:
            self._drop_producer()
        with self._reading:
            if self._reader is not None:
                self._reader.close(autocommit=False)
                self._reader = None

    def _send(self, spec: TopicSpec, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        if self._producer is None:
            self._producer = connect(
                kafka.KafkaProducer, _producer_options(self._settings, self._topics)
            )
        sent = [
            self._producer.send(
                spec.name,
                key=message.key.encode(),
                value=message.value,
                headers=list(message.headers.items()),
                partition=partition_of(message.key, spec.partitions),
            )
            for message in messages
        ]
        deadline = time.monotonic() + 2 * self._settings.request_timeout_s + 1
        kept = [each.get(timeout=max(0.0, deadline - time.monotonic())) for each in sent]
        return tuple(Position(ours(each), each.offset) for each in kept)

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=0)

    def _read(self, partition: TopicPartition, offset: int, stop: int) -> tuple[Message, ...]:
        bounds = self._bounds(partition)
        reader, where = self._reader, theirs(partition)
        offset, stop = max(offset, bounds.first), min(stop, bounds.end)
        if offset >= stop:
            return ()
        reader.assign([where])
        reader.seek(where, offset)
        found: list[Message] = []
        deadline = time.monotonic() + self._settings.request_timeout_s
        while reader.position(where) < stop:
            records = reader.poll(milliseconds(_READ_SLICE_S), max_records=stop - offset)
            found += [message_of(each) for some in records.values() for each in some]
            if records:
                deadline = time.monotonic() + self._settings.request_timeout_s
            elif time.monotonic() > deadline:
                raise kafka.errors.KafkaTimeoutError(f"no answer to a read of {partition}")
        reader.unsubscribe()
        return tuple(message for message in found if message.offset < stop)

    def _bounds(self, partition: TopicPartition) -> Bounds:
        if self._reader is None:
            self._reader = connect(kafka.KafkaConsumer, _reader_options(self._settings))
        where, timeout_ms = theirs(partition), milliseconds(self._settings.request_timeout_s)
        (first,) = self._reader.beginning_offsets([where], timeout_ms=timeout_ms).values()
        (end,) = self._reader.end_offsets([where], timeout_ms=timeout_ms).values()
        return Bounds(first, end)

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosedError(f"log {self._settings.where}")


def _producer_options(settings: KafkaSettings, topics: Topics) -> dict[str, Any]:
    request_ms = milliseconds(settings.request_timeout_s)
    return client_options(settings) | {
        "acks": "all",
        "enable_idempotence": True,
        "compression_type": None if settings.compression == "none" else settings.compression,
        "batch_size": _BATCH_BYTES,
        "linger_ms": milliseconds(_LINGER_S),
        "max_request_size": max(map(batch_limit_bytes, topics.specs.values())),
        "max_block_ms": request_ms,
        "delivery_timeout_ms": 2 * request_ms + milliseconds(_LINGER_S),
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }


def _reader_options(settings: KafkaSettings) -> dict[str, Any]:
    # Mostly single messages are read: a fetch that brings more would be thrown away.
    return client_options(settings) | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "fetch_max_bytes": _READ_BYTES,
        "max_partition_fetch_bytes": _READ_BYTES,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
