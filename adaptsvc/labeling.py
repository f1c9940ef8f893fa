"""Labels to labeled images: which label is for which image, and the pixels of it.

It knows nothing of rounds, consumer groups or dead letters: what cannot be used comes back with the reason.

A label waits for its image as long as `tune.label_ttl_s` says, and in the checkpoint, so that neither a
restart nor the offset of its partition has to wait with it. An image is looked for in the window, among the
labeled images, and then in the stream itself, where it lay when it came.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from adaptsvc.adapt.labels import LabelBuffer, LabeledSample
from adaptsvc.adapt.window import Window, capacity
from adaptsvc.checkpoint import Checkpoint, JoinReferences, LabelReference, LabelRow, SeenRow
from adaptsvc.config import Settings
from adaptsvc.deadletters import Dead
from adaptsvc.errors import (
    AdaptsvcError,
    ConfigError,
    ImageError,
    ImageGoneError,
    ImageIdError,
    ImageNotSeenError,
    LabelError,
    LabelsWaitingError,
    UnknownClassError,
)
from adaptsvc.metrics import LabelTrouble, Observer
from adaptsvc.source import LABEL_HEADER, Pictures, check_id, place_of, position_of
from adaptsvc.streaming import LABELS
from adaptsvc.types import UInt8
from streams.labels import GivenLabel, Joined, JoinState, LabelJoin, SeenImage
from streams.message import Message, Position

log = logging.getLogger(__name__)
# Image id, pixels (3, H, W), target, and where the image can be read again.
Found: TypeAlias = tuple[str, UInt8, int, tuple[str, int, int]]
TROUBLES: dict[type[AdaptsvcError], LabelTrouble] = {
    UnknownClassError: "unknown_class",
    ImageNotSeenError: "expired",
    LabelsWaitingError: "crowded_out",
    ImageGoneError: "image_gone",
}


@dataclass(slots=True)
class _Batch:
    """What is at work: pixels that labels brought, pairs found, and what cannot be used."""

    brought: dict[Position, UInt8] = field(default_factory=dict)
    pairs: list[Joined] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of labels: how many can be learned from, and which cannot be used."""

    learned: int
    dead: tuple[Dead, ...]


class Labeling:
    """The labeled images, and what may still become one.

    Args:
        pictures: where pixels come from.
        window: where they may already be.
        settings: caps, class names, and how long to wait.
        observer: told of every label.
    """

    def __init__(
        self, pictures: Pictures, window: Window, settings: Settings, observer: Observer
    ) -> None:
        tune = settings.tune
        self._pictures = pictures
        self._window = window
        self._classes = settings.classes
        self._ttl_s = tune.label_ttl_s
        self._observer = observer
        self._join = LabelJoin(
            ttl_s=tune.label_ttl_s,
            most_waiting=tune.labels_waiting,
            most_images=tune.images_remembered,
        )
        fit = fitting(pictures, tune.buffer_images, tune.buffer_bytes, setting="tune.buffer_bytes")
        self.buffer = LabelBuffer(fit, tune.held_out_share)

    def receive(self, images: Iterable[Message], labels: Iterable[Message]) -> Taken:
        """Take in images that are in the window, and labels."""
        batch = _Batch()
        for message in images:
            batch.pairs += self._join.image(_seen(message)).joined
        for message in labels:
            try:
                self._receive_label(message, batch)
            except (ImageError, ImageIdError, LabelError) as exc:
                batch.dead.append((message, exc))
        learned = self._keep(self._found(batch))
        self._observer.received(LABELS, "learned", learned)
        self._observer.labels_joined(learned)
        return Taken(learned, self._refused(batch.dead))

    def expire(self, now_s: float) -> tuple[Dead, ...]:
        """Wait no longer for what is too old; call it when nothing is left to read."""
        expired = [self._expired(given) for given in self._join.expire(now_s)]
        return self._refused(expired)

    def references(self) -> tuple[LabelReference, ...]:
        """Where the labeled images can be read again."""
        return tuple(
            LabelReference(
                image_id=s.image_id,
                topic=s.source[0],
                partition=s.source[1],
                offset=s.source[2],
                label=self._classes[s.target],
            )
            for s in self.buffer.samples
        )

    def join_references(self) -> JoinReferences:
        """What waits for what."""
        state = self._join.state
        return JoinReferences(
            seen=tuple((i.image_id, *_place(i.position), i.at_s) for i in state.images),
            joined=tuple(map(_row, state.joined)),
            waiting=tuple(map(_row, state.waiting)),
            latest_s=state.latest_s,
        )

    def restore(self, saved: Checkpoint) -> tuple[Dead, ...]:
        """Read labeled images again and wait on; the labels of what is no class any more."""
        found = [each for reference in saved.labels for each in self._restored(reference)]
        self._keep(found)
        join = saved.join
        waiting = [_given(row) for row in join.waiting]
        known = [each for each in waiting if each.label in self._classes]
        state = JoinState(
            images=tuple(_image(row) for row in join.seen),
            joined=tuple(_given(row) for row in join.joined if row[-1] in self._classes),
            waiting=tuple(known),
            latest_s=join.latest_s,
        )
        dead = [self._crowded_out(given) for given in self._join.restore(state)]
        for given in (*map(_given, join.joined), *waiting):
            if given.label not in self._classes:
                dead.append((self._message(given), self._unknown(given.label)))
        return self._refused(dead)

    def _receive_label(self, message: Message, batch: _Batch) -> None:
        """Join one label or let it wait.

        Raises:
            ImageIdError: its key is no image id.
            UnknownClassError: its label is not one of the class names.
            ImageError: it brings bytes that are no image.
        """
        check_id(message.key)
        self._target(label := message.headers.get(LABEL_HEADER, b"").decode(errors="replace"))
        place = position_of(place_of(message))
        if message.value:
            batch.brought[place] = self._pictures.of(message)
            batch.pairs += self._join.image(_seen(message)).joined
        elif not self._join.knows(message.key):
            batch.pairs += self._recalled(message)
        step = self._join.label(GivenLabel(message.key, label, place, message.timestamp_s))
        batch.dead += [self._crowded_out(given) for given in step.crowded_out]
        if step.contradicts:
            self._observer.label_trouble("contradicts", 1)
        if step.again and not self._is_lost(step.joined, batch):
            self._observer.label_trouble("again", 1)
            self._observer.received(LABELS, "duplicate", 1)
            return
        batch.pairs += step.joined

    def _recalled(self, message: Message) -> tuple[Joined, ...]:
        """Remember an image again that the window or the buffer kept for longer than the join did."""
        sample = self._window.get(message.key) or self.buffer.get(message.key)
        if sample is None:
            return ()
        image = SeenImage(message.key, position_of(sample.source), message.timestamp_s)
        return self._join.image(image).joined

    def _is_lost(self, joined: Sequence[Joined], batch: _Batch) -> bool:
        """Whether a label was joined before, and the labeled image has left the buffer since."""
        at_work = {pair.given.image_id for pair in batch.pairs}
        names = {pair.given.image_id for pair in joined}
        return any(self.buffer.get(name) is None for name in names - at_work)

    def _found(self, batch: _Batch) -> list[Found]:
        """The images of all pairs; a label whose image is gone is dead."""
        found: list[Found] = []
        for pair in batch.pairs:
            name, place = pair.image.image_id, _place(pair.image.position)
            try:
                pixels = self._pixels(pair, batch.brought)
            except (ImageError, ImageGoneError) as exc:
                self._join.forget(name)
                batch.dead.append((self._message(pair.given), exc))
            else:
                found.append((name, pixels, self._target(pair.given.label), place))
        return found

    def _pixels(self, pair: Joined, brought: dict[Position, UInt8]) -> UInt8:
        image = pair.image
        if image.position in brought:
            return brought[image.position]
        for sample in (self._window.get(image.image_id), self.buffer.get(image.image_id)):
            if sample is not None and sample.source == _place(image.position):
                return sample.pixels
        return self._pictures.at(image.image_id, image.position)

    def _keep(self, found: Sequence[Found]) -> int:
        """Put labeled images in the buffer; how many there were."""
        answers = self._pictures.zero_shot([pixels for _, pixels, _, _ in found])
        for (image_id, pixels, target, place), (p, *_) in zip(found, answers, strict=True):
            self.buffer.add(LabeledSample(image_id, pixels, target, place, p))
        return len(found)

    def _restored(self, reference: LabelReference) -> Iterable[Found]:
        """A labeled image of the checkpoint; left out when it is gone, or settings no longer admit it."""
        place = reference.topic, reference.partition, reference.offset
        try:
            target = self._target(reference.label)
            pixels = self._pictures.at(reference.image_id, position_of(place))
        except (ImageError, ImageIdError, LabelError):
            return
        yield reference.image_id, pixels, target, place

    def _target(self, label: str) -> int:
        if label not in self._classes:
            raise self._unknown(label)
        return self._classes.index(label)

    def _unknown(self, label: str) -> UnknownClassError:
        return UnknownClassError(
            f"got the label {label[:100]!r} in the header {LABEL_HEADER!r}; expected one of "
            f"{', '.join(self._classes)}"
        )

    def _expired(self, given: GivenLabel) -> Dead:
        return self._message(given), ImageNotSeenError(
            f"the label for {given.image_id!r} came without an image, and none of that id came in "
            f"{self._ttl_s:g} s; send the image with its label, or raise tune.label_ttl_s"
        )

    def _crowded_out(self, given: GivenLabel) -> Dead:
        return self._message(given), LabelsWaitingError(
            f"the label for {given.image_id!r} waited for its image, and newer labels took its place; "
            "send the image with its label, or raise tune.labels_waiting"
        )

    def _message(self, given: GivenLabel) -> Message:
        """A label as it was sent; where it is gone from the stream, what is known of it."""
        sent = self._pictures.message(given.image_id, given.position)
        if sent is not None:
            return sent
        headers = {LABEL_HEADER: given.label.encode()}
        return Message(*_place(given.position), given.image_id, b"", headers, given.at_s)

    def _refused(self, dead: Sequence[Dead]) -> tuple[Dead, ...]:
        """Tell of labels that cannot be used."""
        troubles = Counter(TROUBLES.get(type(error), "bad_image") for _, error in dead)
        for trouble, labels in troubles.items():
            self._observer.label_trouble(trouble, labels)
        self._observer.received(LABELS, "dead_letter", len(dead))
        self._observer.labels_waiting(self._join.waiting)
        return tuple(dead)


def fitting(pictures: Pictures, most_images: int, most_bytes: int, *, setting: str) -> int:
    """How many images may be held in memory; where that is fewer than wanted, it is said.

    Args:
        pictures: say what one takes.
        most_images: in number.
        most_bytes: in bytes.
        setting: the one that says `most_bytes`.

    Raises:
        ConfigError: not even two fit.
    """
    try:
        fit = capacity(most_images, most_bytes, image_bytes=pictures.sample_bytes)
    except ValueError as exc:
        raise ConfigError(f"{setting}: {exc}") from exc
    if fit < most_images:
        log.warning(
            "%s %d holds %d images, less than the %d wanted", setting, most_bytes, fit, most_images
        )
    return fit


def _seen(message: Message) -> SeenImage:
    return SeenImage(message.key, position_of(place_of(message)), message.timestamp_s)


def _place(position: Position) -> tuple[str, int, int]:
    return position.partition.topic, position.partition.partition, position.offset


def _row(given: GivenLabel) -> LabelRow:
    return given.image_id, *_place(given.position), given.at_s, given.label


def _given(row: LabelRow) -> GivenLabel:
    image_id, topic, partition, offset, at_s, label = row
    return GivenLabel(image_id, label, position_of((topic, partition, offset)), at_s)


def _image(row: SeenRow) -> SeenImage:
    image_id, topic, partition, offset, at_s = row
    return SeenImage(image_id, position_of((topic, partition, offset)), at_s)
