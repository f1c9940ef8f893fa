"""What may be committed while messages are finished out of order. Knows nothing of logs or time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from streams.errors import OffsetOutOfRangeError
from streams.message import Message, TopicPartition


@dataclass(slots=True)
class _Progress:
    pending: set[int] = field(default_factory=set)
    end: int = 0

    @property
    def committable(self) -> int:
        return min(self.pending, default=self.end)


class Watermark:
    """Per partition, the next offset to read once everything before it is finished.

    With P the offsets delivered and not finished, and E one past the highest delivered:
    committable = min(P) if P is not empty, else E. Offsets that were never delivered (removed by
    retention) do not hold it back. A message delivered again counts as unfinished again.

    >>> watermark, images = Watermark(), TopicPartition("images", 0)
    >>> watermark.deliver(images, [5, 6, 7])
    >>> watermark.finish(images, [5, 7])
    >>> watermark.committable()[images]
    6
    """

    def __init__(self) -> None:
        self._progress: dict[TopicPartition, _Progress] = {}

    def deliver(self, partition: TopicPartition, offsets: Iterable[int]) -> None:
        """Note offsets that were handed to the consumer's owner."""
        progress = self._progress.setdefault(partition, _Progress())
        for offset in offsets:
            progress.pending.add(offset)
            progress.end = max(progress.end, offset + 1)

    def deliver_messages(self, messages: Iterable[Message]) -> None:
        """Note messages as `Consumer.poll` returned them."""
        for message in messages:
            self.deliver(message.topic_partition, (message.offset,))

    def finish(self, partition: TopicPartition, offsets: Iterable[int]) -> None:
        """Note offsets whose work is done; once more is harmless, as is a forgotten partition.

        Raises:
            OffsetOutOfRangeError: an offset beyond what was delivered from this partition.
        """
        progress = self._progress.get(partition)
        if progress is None:
            return
        for offset in offsets:
            if offset >= progress.end:
                raise OffsetOutOfRangeError(str(partition), offset=offset, end=progress.end - 1)
            progress.pending.discard(offset)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop partitions that went to another member; what is pending there is theirs to read."""
        for partition in partitions:
            self._progress.pop(partition, None)

    def committable(self) -> Mapping[TopicPartition, int]:
        """The next offset to read of each partition seen; everything before it is finished."""
        return {partition: each.committable for partition, each in self._progress.items()}

    @property
    def pending(self) -> int:
        """Messages delivered and not finished."""
        return sum(len(each.pending) for each in self._progress.values())
