"""Messages fetched and not yet handed out, by partition. Pure."""

from collections import deque
from collections.abc import Iterable

from streams.message import Message, TopicPartition


class Backlog:
    """Queues dealt from in turn, so that a full partition cannot starve the rest."""

    def __init__(self) -> None:
        self._queues: dict[TopicPartition, deque[Message]] = {}
        self._turn = 0
        self.size_bytes = 0

    def add(self, partition: TopicPartition, messages: Iterable[Message]) -> None:
        """Queue what was fetched."""
        queue = self._queues.setdefault(partition, deque())
        for message in messages:
            queue.append(message)
            self.size_bytes += message.size_bytes

    def drop(self, partition: TopicPartition) -> None:
        """Forget a partition's messages."""
        dropped = self._queues.pop(partition, ())
        self.size_bytes -= sum(message.size_bytes for message in dropped)

    def take(self, max_messages: int, max_bytes: int) -> tuple[Message, ...]:
        """The next messages within the limits; the first one even if it alone is too large."""
        taken: list[Message] = []
        waiting = sorted(self._queues)
        self._turn += 1
        for index in range(len(waiting)):
            queue = self._queues[waiting[(self._turn + index) % len(waiting)]]
            while queue and len(taken) < max_messages:
                if taken and queue[0].size_bytes > max_bytes:
                    break
                message = queue.popleft()
                max_bytes -= message.size_bytes
                self.size_bytes -= message.size_bytes
                taken.append(message)
        self._queues = {each: queue for each, queue in self._queues.items() if queue}
        return tuple(taken)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))
