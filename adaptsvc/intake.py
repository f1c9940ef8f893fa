"""Messages to what rounds learn from: the window, the labels, and the dead letters.

It knows nothing of rounds, versions or consumer groups.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from adaptsvc.adapt.labels import LabelBuffer, LabeledSample
from adaptsvc.adapt.window import Sample, Window
from adaptsvc.checkpoint import Checkpoint, LabelReference, SampleReference
from adaptsvc.config import Settings
from adaptsvc.errors import ImageError, ImageNotSeenError, LabelError, UnknownClassError
from adaptsvc.images import ImageLimits, Preprocess, decode
from adaptsvc.metrics import Observer
from adaptsvc.types import Float32, UInt8
from streams.log import Log
from streams.message import Message, NewMessage, TopicPartition

log = logging.getLogger(__name__)
IMAGES, LABELS, DEAD_LETTERS = "images.unlabeled", "images.labeled", "images.deadletter"
LABEL_HEADER = "label"
DECODE_MESSAGES = 64
MOST_WAITING = 10_000  # labels; each is a few hundred bytes
Dead: TypeAlias = list[tuple[Message, ImageError | LabelError]]
# Image id, pixels (3, H, W), target, and where the image can be read again.
Labeled: TypeAlias = tuple[str, UInt8, int, tuple[str, int, int]]
ZeroShot: TypeAlias = Callable[[UInt8], tuple[Float32, Float32]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where images come from and how they are read.

    Attributes:
        log: the stream.
        preprocess: how an image becomes its input.
        zero_shot: images (N, 3, H, W) -> frozen probabilities (N, C) and UEO weights (N,).
    """

    log: Log
    preprocess: Preprocess
    zero_shot: ZeroShot


class Intake:
    """What the worker has received and not yet forgotten.

    Args:
        source: where images come from.
        settings: sizes, caps and class names.
        observer: told of every message.
    """

    def __init__(self, source: Source, settings: Settings, observer: Observer) -> None:
        images = settings.images
        self._limits = ImageLimits(images.max_bytes, images.max_pixels, images.max_side)
        self._source = source
        self._classes = settings.classes
        self._observer = observer
        self.window = Window(settings.learn.window_images)
        self.labels = LabelBuffer(settings.tune.buffer_images, settings.tune.held_out_share)
        self.new_images = 0
        self.new_labels = 0
        self._read: dict[str, int] = {}
        self._waiting: dict[tuple[str, int, int], Message] = {}  # labels whose image may still come

    @property
    def offsets(self) -> dict[str, int]:
        """Next offset to read per ``topic/partition``; a label that waits for its image is not read yet."""
        offsets = dict(self._read)
        for (topic, partition, offset), _message in self._waiting.items():
            key = f"{topic}/{partition}"
            offsets[key] = min(offsets[key], offset)
        return offsets

    def receive(self, messages: Sequence[Message]) -> int:
        """Take messages in; how many of them became dead letters.

        A label that brings no image waits for it: in a backlog it may be read first. The caller checkpoints
        `offsets` before it commits them.
        """
        for message in messages:
            self._read[f"{message.topic}/{message.partition}"] = message.offset + 1
        dead = self._receive_images([m for m in messages if m.topic == IMAGES])
        dead += self._receive_labels([m for m in messages if m.topic == LABELS])
        return self._bury(dead)

    def caught_up(self) -> int:
        """Nothing is left to read: what waits, waits in vain; how many labels became dead letters."""
        return self._bury(self._give_up(0)) if self._waiting else 0

    def restore(self, saved: Checkpoint) -> None:
        """Read again what a checkpoint refers to."""
        self._read = dict(saved.offsets)
        self.new_images, self.new_labels = saved.new_images, saved.new_labels
        messages = [m for reference in saved.window for m in self._fetch(reference)]
        for start in range(0, len(messages), DECODE_MESSAGES):
            self._take(messages[start : start + DECODE_MESSAGES])
        self._keep([labeled for reference in saved.labels for labeled in self._restored(reference)])
        wanted, found = len(saved.window) + len(saved.labels), len(self.window) + len(self.labels)
        if found < wanted:
            log.warning("%d images are gone from the stream or no longer fit", wanted - found)

    def references(self) -> tuple[tuple[SampleReference, ...], tuple[LabelReference, ...]]:
        """Where the images of the window and of the labels can be read again."""
        images = tuple(SampleReference(**_place(s)) for s in self.window.samples)
        labels = tuple(
            LabelReference(**_place(s), label=self._classes[s.target]) for s in self.labels.samples
        )
        return images, labels

    def _receive_images(self, messages: Sequence[Message]) -> Dead:
        known = {sample.image_id for sample in self.window.samples}
        dead = self._take(messages)
        fresh = {message.key for message in messages} - known - {m.key for m, _ in dead}
        self.new_images += len(fresh)
        self._observer.received(IMAGES, "learned", len(fresh))
        self._observer.received(IMAGES, "dead_letter", len(dead))
        self._observer.received(IMAGES, "duplicate", len(messages) - len(fresh) - len(dead))
        return dead

    def _receive_labels(self, messages: Sequence[Message]) -> Dead:
        dead: Dead = []
        found: list[Labeled] = []
        tried = [*self._waiting.values(), *messages]
        self._waiting.clear()
        for message in tried:
            try:
                if (labeled := self._labeled(message)) is None:
                    self._waiting[(message.topic, message.partition, message.offset)] = message
                else:
                    found.append(labeled)
            except (ImageError, LabelError) as exc:
                dead.append((message, exc))
        self._keep(found)
        self.new_labels += len(found)
        self._observer.received(LABELS, "learned", len(found))
        self._observer.received(LABELS, "dead_letter", len(dead))
        return dead + self._give_up(MOST_WAITING)

    def _give_up(self, kept: int) -> Dead:
        """No longer wait for the images of all labels but the last `kept`."""
        dead: Dead = []
        for place in list(self._waiting)[: max(0, len(self._waiting) - kept)]:
            message = self._waiting.pop(place)
            missing = ImageNotSeenError(
                f"the label for {message.key!r} came without an image, and the last "
                f"{self.window.capacity} images hold none of that id; send the image with its label"
            )
            dead.append((message, missing))
        self._observer.received(LABELS, "dead_letter", len(dead))
        return dead

    def _take(self, messages: Sequence[Message]) -> Dead:
        """Decode messages into the window; those that are no images come back with the reason."""
        good: list[tuple[Message, UInt8]] = []
        bad: Dead = []
        for message in messages:
            try:
                good.append((message, decode(message.value, self._source.preprocess, self._limits)))
            except ImageError as exc:
                bad.append((message, exc))
        if good:
            pixels = np.stack([image for _, image in good])
            probabilities, weights = self._source.zero_shot(pixels)
            for (message, image), p, weight in zip(good, probabilities, weights, strict=True):
                place = (message.topic, message.partition, message.offset)
                self.window.add(Sample(message.key, image, p, float(weight), place))
        return bad

    def _keep(self, found: Sequence[Labeled]) -> None:
        for start in range(0, len(found), DECODE_MESSAGES):
            some = found[start : start + DECODE_MESSAGES]
            probabilities, _ = self._source.zero_shot(
                np.stack([pixels for _, pixels, _, _ in some])
            )
            for (image_id, pixels, target, place), p in zip(some, probabilities, strict=True):
                self.labels.add(LabeledSample(image_id, pixels, target, place, p))

    def _labeled(self, message: Message) -> Labeled | None:
        """The labeled image a message stands for: its own, or one we have; None if we have none of that id.

        Raises:
            ImageError: it brings bytes that are no image.
            UnknownClassError: its label is not one of the class names.
        """
        target = self._target(message.headers.get(LABEL_HEADER, b""))
        if message.value:
            pixels = decode(message.value, self._source.preprocess, self._limits)
            place = (message.topic, message.partition, message.offset)
            return message.key, pixels, target, place
        sample = self.window.get(message.key) or self.labels.get(message.key)
        if sample is None:
            return None
        return message.key, sample.pixels, target, sample.source

    def _target(self, label: bytes) -> int:
        name = label.decode(errors="replace")
        if name not in self._classes:
            raise UnknownClassError(
                f"got the label {name!r} in the header {LABEL_HEADER!r}; expected one of "
                f"{', '.join(self._classes)}"
            )
        return self._classes.index(name)

    def _restored(self, reference: LabelReference) -> Iterable[Labeled]:
        """A labeled image of the checkpoint; left out when the settings changed and it no longer fits."""
        for message in self._fetch(reference):
            try:
                pixels = decode(message.value, self._source.preprocess, self._limits)
                target = self._target(reference.label.encode())
            except (ImageError, LabelError):
                continue
            place = (reference.topic, reference.partition, reference.offset)
            yield reference.image_id, pixels, target, place

    def _fetch(self, reference: SampleReference) -> Iterable[Message]:
        partition = TopicPartition(reference.topic, reference.partition)
        return self._source.log.read(partition, offset=reference.offset, limit=1)

    def _bury(self, dead: Dead) -> int:
        """Dead letters keep the bytes and headers, and say why and from where; how many there were."""
        if not dead:
            return 0
        letters = [
            NewMessage(
                message.key,
                message.value,
                {
                    **message.headers,
                    "reason": type(error).__name__.encode(),
                    "error": str(error).encode(),
                    "origin-topic": message.topic.encode(),
                    "origin-partition": str(message.partition).encode(),
                    "origin-offset": str(message.offset).encode(),
                },
            )
            for message, error in dead
        ]
        self._source.log.append(DEAD_LETTERS, letters)
        log.warning("%d messages cannot be used and went to %s", len(letters), DEAD_LETTERS)
        return len(letters)


def _place(sample: Sample | LabeledSample) -> dict[str, str | int]:
    topic, partition, offset = sample.source
    return {
        "image_id": sample.image_id,
        "topic": topic,
        "partition": partition,
        "offset": offset,
    }
