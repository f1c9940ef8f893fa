"""Which messages at the head of a partition are past their time or their room. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from streams.message import TopicPartition


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored message, without its content."""

    offset: int
    timestamp_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one partition may keep; `unread_from` is the first offset some group still needs."""

    oldest_s: float
    size_bytes: int
    unread_from: int
    delete_unread: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """The head of a partition that goes: everything below `first_kept`."""

    first_kept: int
    messages: int = 0
    size_bytes: int = 0
    unread: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What one enforcement deleted, how much of it no group had committed, and what stayed."""

    messages: int = 0
    size_bytes: int = 0
    unread: int = 0
    held: tuple[TopicPartition, ...] = ()


def cut_head(entries: Iterable[Entry], *, first: int, total_bytes: int, limits: Limits) -> Cut:
    """The longest head that is too old or too much, read oldest first.

    Args:
        entries: the partition's messages in order of offset; read only as far as the cut goes.
        first: the partition's first offset, the cut where nothing goes.
        total_bytes: size of the whole partition.
        limits: what may stay, and what must.

    Returns:
        The cut; `held` says that an unread message stopped it.
    """
    cut = Cut(first)
    for entry in entries:
        fits = total_bytes - cut.size_bytes <= limits.size_bytes
        if entry.timestamp_s >= limits.oldest_s and fits:
            break
        unread = entry.offset >= limits.unread_from
        if unread and not limits.delete_unread:
            return Cut(cut.first_kept, cut.messages, cut.size_bytes, cut.unread, held=True)
        cut = Cut(
            first_kept=entry.offset + 1,
            messages=cut.messages + 1,
            size_bytes=cut.size_bytes + entry.size_bytes,
            unread=cut.unread + unread,
        )
    return cut
