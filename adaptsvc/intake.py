"""Messages to what rounds learn from: the window, the labels, and the dead letters.

It knows nothing of rounds, versions or consumer groups.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from adaptsvc.adapt.window import Sample, Window
from adaptsvc.checkpoint import Checkpoint, JoinReferences, LabelReference, SampleReference
from adaptsvc.config import Settings
from adaptsvc.deadletters import Dead, bury
from adaptsvc.errors import ImageError, ImageIdError, LabelError
from adaptsvc.labeling import Labeling, fitting
from adaptsvc.metrics import Observer
from adaptsvc.source import Pictures, Source, named, place_of, position_of
from adaptsvc.streaming import IMAGES, LABELS
from adaptsvc.types import Float32, UInt8
from streams.message import Message

log = logging.getLogger(__name__)


class Intake:
    """What the worker has received and not yet forgotten.

    Args:
        source: where images come from.
        settings: sizes, caps and class names.
        observer: told of every message.

    Raises:
        ConfigError: no two images fit in `learn.window_bytes` or `tune.buffer_bytes`.
    """

    def __init__(self, source: Source, settings: Settings, observer: Observer) -> None:
        self._source = source
        self._observer = observer
        self._pictures = Pictures(source, settings)
        self._round_images = settings.learn.round_images
        learn = settings.learn
        self.window = Window(
            fitting(
                self._pictures,
                learn.window_images,
                learn.window_bytes,
                setting="learn.window_bytes",
            )
        )
        self._labeling = Labeling(self._pictures, self.window, settings, observer)
        self.labels = self._labeling.buffer
        self.new_images = 0
        self.new_labels = 0
        self._read: dict[str, int] = {}
        self._embeddings: list[Float32] = []
        self._failures = 0

    @property
    def offsets(self) -> dict[str, int]:
        """Next offset to read per ``topic/partition``."""
        return dict(self._read)

    @property
    def settled(self) -> dict[str, int]:
        """Per ``topic/partition`` the offset before which no image waits for a round.

        So much may be acknowledged to the stream: an image that waits is then kept by retention, and read
        again by a worker that has no checkpoint.
        """
        settled = dict(self._read)
        for sample in self.window.waiting:
            topic, partition, offset = sample.source
            name = f"{topic}/{partition}"
            settled[name] = min(offset, settled.get(name, offset))
        return settled

    @property
    def wanted(self) -> int:
        """Messages that may come before a round has to take the images; at 0, read no more until it has."""
        return max(0, min(self._round_images, self.window.capacity) - self.new_images)

    def receive(self, messages: Sequence[Message]) -> int:
        """Take messages in; how many of them became dead letters.

        A label that brings no image waits for it, and is checkpointed with what else is remembered. The
        caller checkpoints before it commits `settled`.
        """
        messages = list(map(named, messages))
        for message in messages:
            self._read[f"{message.topic}/{message.partition}"] = message.offset + 1
        images, dead = self._receive_images([m for m in messages if m.topic == IMAGES])
        taken = self._labeling.receive(images, [m for m in messages if m.topic == LABELS])
        self.new_labels += taken.learned
        return bury(self._source.log, [*dead, *taken.dead])

    def take_news(self) -> tuple[Float32, int]:
        """Embeddings (N, D) of images that are new since the last call, and how many messages were none."""
        news = np.stack(self._embeddings) if self._embeddings else np.zeros((0, 0), np.float32)
        failures, self._embeddings, self._failures = self._failures, [], 0
        return news, failures

    def expire(self, now: float) -> int:
        """Wait no longer for images of labels that are too old; how many became dead letters.

        Call it when nothing is left to read: an image in a backlog still finds its label.
        """
        return bury(self._source.log, self._labeling.expire(now))

    def restore(self, saved: Checkpoint) -> int:
        """Read again what a checkpoint refers to; how many of its labels became dead letters."""
        self._read = dict(saved.offsets)
        self.new_labels = saved.new_labels
        taken = len(saved.window) - saved.new_images
        self._take(self._read_again(saved.window[: max(0, taken)]))
        self.window.take()
        self._take(self._read_again(saved.window[max(0, taken) :]))
        self.new_images = self.window.fresh
        dead = self._labeling.restore(saved)
        wanted, found = len(saved.window) + len(saved.labels), len(self.window) + len(self.labels)
        if found < wanted:
            log.warning("%d images are gone from the stream or no longer fit", wanted - found)
        return bury(self._source.log, dead)

    def references(self) -> tuple[tuple[SampleReference, ...], tuple[LabelReference, ...]]:
        """Where the images of the window and of the labels can be read again."""
        images = tuple(
            SampleReference(
                image_id=s.image_id, topic=s.source[0], partition=s.source[1], offset=s.source[2]
            )
            for s in self.window.samples
        )
        return images, self._labeling.references()

    def join_references(self) -> JoinReferences:
        """The labels that wait for their images, and the images that a later label can be for."""
        return self._labeling.join_references()

    def _receive_images(self, messages: Sequence[Message]) -> tuple[list[Message], list[Dead]]:
        """Images into the window; the messages that are images, and those that are none."""
        good: list[tuple[Message, UInt8]] = []
        dead: list[Dead] = []
        for message in messages:
            try:
                good.append((message, self._pictures.of(message)))
            except (ImageError, ImageIdError) as exc:
                dead.append((message, exc))
        known = {m.key for m, _ in good if self.window.get(m.key) is not None}
        embeddings = self._take([(m.key, image, place_of(m)) for m, image in good])
        new = {m.key: z for (m, _), z in zip(good, embeddings, strict=True) if m.key not in known}
        fresh = len(new)
        self._embeddings += new.values()
        self._failures += len(dead)
        self.new_images += fresh
        self._observer.received(IMAGES, "learned", fresh)
        self._observer.received(IMAGES, "dead_letter", len(dead))
        self._observer.received(IMAGES, "duplicate", len(good) - fresh)
        return [message for message, _ in good], dead

    def _take(self, images: Sequence[tuple[str, UInt8, tuple[str, int, int]]]) -> list[Float32]:
        """Images into the window; their embeddings (D,)."""
        embeddings = []
        answers = self._pictures.zero_shot([pixels for _, pixels, _ in images])
        for (image_id, pixels, place), (zero_shot, weight, z) in zip(images, answers, strict=True):
            self.window.add(Sample(image_id, pixels, zero_shot, weight, place))
            embeddings.append(z)
        return embeddings

    def _read_again(
        self, references: Sequence[SampleReference]
    ) -> list[tuple[str, UInt8, tuple[str, int, int]]]:
        """The images that are still in the stream and fit; only pixels are held, one encoded at a time."""
        found = []
        for each in references:
            place = each.topic, each.partition, each.offset
            try:
                found.append(
                    (each.image_id, self._pictures.at(each.image_id, position_of(place)), place)
                )
            except (ImageError, ImageIdError, LabelError):
                continue
        return found
