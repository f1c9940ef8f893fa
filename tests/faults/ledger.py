"""What became of every message that a log acknowledged. It knows nothing of what went wrong.

It reads what the product leaves behind, and believes no counter: the records of the rounds that the serving
version goes back to, the dead letters, and the worker's checkpoint. A message that none of these accounts for
is lost.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from adaptsvc import checkpoint as checkpoints
from adaptsvc.checkpoint import Checkpoint
from adaptsvc.config import Settings
from adaptsvc.state import State
from adaptsvc.streaming import DEAD_LETTERS
from adaptsvc.versions.round_record import parse_record
from streams.deadletter import ORIGIN_OFFSET, ORIGIN_PARTITION, ORIGIN_TOPIC
from streams.log import Log
from streams.message import Position, TopicPartition

Place: TypeAlias = tuple[str, int, int]
LETTERS = 10_000


@dataclass(frozen=True, slots=True)
class Counts:
    """Acknowledged messages.

    Attributes:
        sent: all of them.
        learned: a round that the serving version goes back to learned from them; a label: it is kept with its
            image, for the next round on labels.
        waiting: they are in the checkpoint, for a round to come.
        dead: they are among the dead letters.
        unread: they lie at or beyond the offset at which the worker reads on.
        lost: none of that.
        read: they lie before that offset, whatever else became of them.
        short: images that are missing for a round, where some wait for one.
    """

    sent: int
    learned: int
    waiting: int
    dead: int
    unread: int
    lost: int
    read: int
    short: int

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do, and the worker's checkpoint says so too."""
        return self.learned + self.dead == self.sent == self.read

    @property
    def stuck(self) -> bool:
        """Whether all is read, and what waits for a round waits for more images."""
        return self.read == self.sent and self.waiting > 0 and self.short > 0


class Ledger:
    """Counts messages.

    Args:
        log: that acknowledged them.
        state: where versions are.
    """

    def __init__(self, log: Log, state: State) -> None:
        self._log = log
        self._state = state
        self._rounds: dict[int, frozenset[Place]] = {}

    def count(self, sent: Collection[Position], worker: Settings) -> Counts:
        """What has become of these, if the worker of these settings is the one that goes on."""
        # The checkpoint first: what it does not know yet is unread in it, whatever comes meanwhile.
        saved = checkpoints.load(worker.checkpoint)
        waiting, labeled = _waiting(saved), _labeled(saved)
        dead, learned = self._dead(), self._learned()
        outcomes = {"learned": 0, "waiting": 0, "dead": 0, "unread": 0, "lost": 0, "read": 0}
        for position in sent:
            place = (position.partition.topic, position.partition.partition, position.offset)
            is_read = position.offset < saved.offsets.get(f"{place[0]}/{place[1]}", 0)
            outcomes["read"] += is_read
            if place in dead:
                outcomes["dead"] += 1
            elif place in learned or self._key(position) in labeled:
                outcomes["learned"] += 1
            elif place in waiting:
                outcomes["waiting"] += 1
            else:
                outcomes["lost" if is_read else "unread"] += 1
        short = worker.learn.round_images - saved.new_images if saved.new_images else 0
        return Counts(len(sent), **outcomes, short=short)

    def _key(self, position: Position) -> str | None:
        """The image id of a label; an image has none here."""
        if position.partition.topic != "images.labeled":
            return None
        found = self._log.read(position.partition, offset=position.offset, limit=1)
        return found[0].key if found else None

    def _dead(self) -> set[Place]:
        letters = self._log.read(TopicPartition(DEAD_LETTERS, 0), offset=0, limit=LETTERS)
        headers = [letter.headers for letter in letters]
        return {
            (h[ORIGIN_TOPIC].decode(), int(h[ORIGIN_PARTITION]), int(h[ORIGIN_OFFSET]))
            for h in headers
        }

    def _learned(self) -> set[Place]:
        """The messages of every round that the serving version goes back to."""
        found: set[Place] = set()
        version = self._state.lasting.read().version
        while version is not None:
            if version not in self._rounds:
                self._rounds[version] = self._round(version)
            found |= self._rounds[version]
            version = self._state.store.manifest(version).parent
        return found

    def _round(self, version: int) -> frozenset[Place]:
        if not (data := self._state.store.record(version)):
            return frozenset()
        rows = parse_record(data, version).members.rows()
        return frozenset((row.topic, row.partition, row.offset) for row in rows)


def _waiting(saved: Checkpoint) -> set[Place]:
    images = {(each.topic, each.partition, each.offset) for each in saved.window}
    return images | {(row[1], row[2], row[3]) for row in saved.join.waiting}


def _labeled(saved: Checkpoint) -> set[str]:
    return {each.image_id for each in saved.labels}
