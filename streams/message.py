"""Messages and their places in a log. Knows nothing of how a log keeps them."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.errors import InvalidMessageError


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """One ordered part of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where an appended message came to lie."""

    partition: TopicPartition
    offset: int


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to append; equal keys keep their order.

    Raises:
        InvalidMessageError: a part has the wrong type, or the key is not encodable as UTF-8.
    """

    key: str
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text("key", self.key)
        _check_bytes("value", self.value)
        for name, value in self.headers.items():
            _check_text("header name", name)
            _check_bytes(f"header {name!r}", value)

    @property
    def size_bytes(self) -> int:
        """Bytes of key, headers and value together."""
        return _size_bytes(self.key, self.value, self.headers)


@dataclass(frozen=True, slots=True)
class Message:
    """A message read from a log."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: Mapping[str, bytes]
    timestamp_s: float

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition it was read from."""
        return TopicPartition(self.topic, self.partition)

    @property
    def size_bytes(self) -> int:
        """Bytes of key, headers and value together."""
        return _size_bytes(self.key, self.value, self.headers)


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: CRC-32 of its UTF-8 bytes, modulo the number of partitions."""
    return zlib.crc32(key.encode()) % partitions


def _size_bytes(key: str, value: bytes, headers: Mapping[str, bytes]) -> int:
    named = sum(len(name.encode()) + len(content) for name, content in headers.items())
    return len(key.encode()) + len(value) + named


def _check_text(part: str, text: object) -> None:
    if not isinstance(text, str):
        raise InvalidMessageError(f"{part} is {type(text).__name__}; expected str; decode it first")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidMessageError(
            f"{part} {text!r} has no UTF-8 form; expected text without lone surrogates; replace them"
        ) from exc


def _check_bytes(part: str, content: object) -> None:
    if not isinstance(content, bytes):
        raise InvalidMessageError(
            f"{part} is {type(content).__name__}; expected bytes; encode or copy it first"
        )
