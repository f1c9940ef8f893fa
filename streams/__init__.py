"""Logs of messages with topics, partitions and consumer groups; see `streams.log` for the promises.

Knows nothing of images, models or adaptsvc.
"""

from streams.database import DatabaseSettings
from streams.errors import (
    BrokerUnavailableError,
    InvalidMessageError,
    LogBusyError,
    LogClosedError,
    LogCorruptError,
    LogFullError,
    LogUnavailableError,
    MessageTooLargeError,
    NotOwnedError,
    OffsetOutOfRangeError,
    StreamError,
    TopicConfigError,
    UnknownTopicError,
)
from streams.kafka_settings import KafkaSettings
from streams.log import Consumer, Log, MemoryLog
from streams.message import Message, NewMessage, Position, TopicPartition, partition_of
from streams.retention import RetentionReport
from streams.sqlite import SqliteLog
from streams.topics import Topics, TopicSpec, load_topics, parse_topics

__all__ = [
    "BrokerUnavailableError",
    "Consumer",
    "DatabaseSettings",
    "InvalidMessageError",
    "KafkaSettings",
    "Log",
    "LogBusyError",
    "LogClosedError",
    "LogCorruptError",
    "LogFullError",
    "LogUnavailableError",
    "MemoryLog",
    "Message",
    "MessageTooLargeError",
    "NewMessage",
    "NotOwnedError",
    "OffsetOutOfRangeError",
    "Position",
    "RetentionReport",
    "SqliteLog",
    "StreamError",
    "TopicConfigError",
    "TopicPartition",
    "TopicSpec",
    "Topics",
    "UnknownTopicError",
    "load_topics",
    "parse_topics",
    "partition_of",
]
