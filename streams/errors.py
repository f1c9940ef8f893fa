"""The errors of the streams package. Knows nothing of any log's storage.

StreamError
├── TopicConfigError          topics.yaml, or a log whose partitions differ from it
├── UnknownTopicError         a topic that topics.yaml does not name
├── InvalidMessageError       a message no log can hold
│   └── MessageTooLargeError  larger than its topic allows
├── OffsetOutOfRangeError     an offset that no message has had, nor will have next
├── NotOwnedError             a partition held by another member, or a lost membership
├── LogClosedError            used after close()
└── LogUnavailableError       the storage or broker did not do its work
    ├── LogBusyError          another writer held it too long; trying again may help
    ├── LogFullError          no room; nothing of the append was stored
    ├── LogCorruptError       what is stored cannot be read as a log
    └── BrokerUnavailableError  a Kafka cluster did not answer, or refused
"""

from collections.abc import Iterable
from pathlib import Path


class StreamError(Exception):
    """Any failure of a stream."""


class TopicConfigError(StreamError):
    """The table of topics is wrong, or disagrees with the stored log."""


class UnknownTopicError(StreamError):
    """A topic was named that the table of topics does not hold."""

    def __init__(self, topic: str, known: Iterable[str]) -> None:
        self.topic = topic
        self.known = tuple(sorted(known))
        super().__init__(
            f"unknown topic {topic!r}; expected one of {', '.join(self.known)}; "
            "correct the name or add the topic to topics.yaml"
        )


class InvalidMessageError(StreamError):
    """A message has a part of the wrong type or encoding."""


class MessageTooLargeError(InvalidMessageError):
    """A message is larger than its topic allows."""

    def __init__(self, topic: str, *, size_bytes: int, limit_bytes: int) -> None:
        self.topic = topic
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"message of {size_bytes} bytes (key, headers and value) for topic {topic!r}; at most "
            f"{limit_bytes} are allowed; send less or raise max_message_bytes in topics.yaml"
        )


class OffsetOutOfRangeError(StreamError):
    """An offset lies outside what the partition has held or will hold next."""

    def __init__(self, where: str, *, offset: int, end: int) -> None:
        self.where = where
        self.offset = offset
        self.end = end
        super().__init__(
            f"offset {offset} of {where}; expected 0 to {end}; "
            "use an offset of a message read from this log, or the one after it"
        )


class NotOwnedError(StreamError):
    """This consumer does not hold the partition, or lost its membership."""

    def __init__(self, group: str, member: str, reason: str) -> None:
        self.group = group
        self.member = member
        self.reason = reason
        super().__init__(
            f"member {member!r} of group {group!r}: {reason}; poll again, "
            "and commit only partitions that positions() then names"
        )


class LogClosedError(StreamError):
    """A log or consumer was used after it was closed."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} is closed; open a new one")


class LogUnavailableError(StreamError):
    """The storage or broker behind a log failed."""

    remedy = "check that the file and its directory exist and can be read and written"

    def __init__(self, where: Path | str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"log {where}: {reason}; {self.remedy}")


class LogBusyError(LogUnavailableError):
    """Another writer held the log for longer than this call may wait."""

    remedy = "try again, or raise busy_timeout_s"


class LogFullError(LogUnavailableError):
    """There is no room; nothing of the refused append was stored."""

    remedy = "free disk space, enforce retention, or raise max_file_bytes"


class LogCorruptError(LogUnavailableError):
    """The file is not a log, or is damaged."""

    remedy = "move the file away and start a new log, or restore a copy"


class BrokerUnavailableError(LogUnavailableError):
    """A Kafka cluster cannot be reached, did not answer in time, or refused."""

    remedy = "check that the brokers run, the servers and credentials, and try again"
