"""Where a worker reads on after a start, by its checkpoint and by what the stream remembers of its group.

It reads offsets only, and never a message.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from adaptsvc.checkpoint import Checkpoint, Found
from adaptsvc.metrics import Observer
from streams.log import Consumer, Log
from streams.message import TopicPartition

log = logging.getLogger(__name__)


def tell_of(found: Found, group: str, observer: Observer) -> None:
    """Say and count what could not be read of the checkpoints of this group's worker."""
    for reason in found.refused:
        log.error("%s", reason)
    observer.checkpoints_refused(len(found.refused))
    if found.lost:
        log.error(
            "no checkpoint can be read: going on from the offsets that the stream has for the group "
            "%s; labels given so far count no more, send them again",
            group,
        )
    elif found.refused:
        log.warning("the checkpoint before is taken: what came since is read again")


def is_overtaken(consumer: Consumer, saved: Checkpoint) -> bool:
    """Whether the group was committed beyond a checkpoint, which its own worker never does."""
    committed = consumer.committed()
    return any(committed.get(p, 0) > offset for _, p, offset in places(saved.offsets))


def start(stream: Log, consumer: Consumer, saved: Checkpoint) -> dict[TopicPartition, int]:
    """Where to read on: as the checkpoint says, unless the stream does not go that far."""
    committed = consumer.committed()
    found = {**committed, **{p: offset for _, p, offset in places(saved.offsets)}}
    found = {p: offset for p, offset in found.items() if p in consumer.positions()}
    for partition, offset in found.items():
        bounds = stream.bounds(partition)
        if offset > bounds.end:
            known = committed.get(partition, bounds.first)
            found[partition] = known if known <= bounds.end else bounds.first
            log.error(
                "%s ends at %d, before the checkpoint's offset %d: it was set back, or is another "
                "stream; reading from %d",
                *(partition, bounds.end, offset, found[partition]),
            )
    return found


def places(offsets: Mapping[str, int]) -> Iterator[tuple[str, TopicPartition, int]]:
    """Offsets by ``topic/partition``: the name, the partition and the offset of each."""
    for name, offset in offsets.items():
        topic, _, number = name.rpartition("/")
        yield name, TopicPartition(topic, int(number)), offset
