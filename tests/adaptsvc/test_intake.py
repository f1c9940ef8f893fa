"""What becomes of messages: images, labels, dead letters; and that a restart finds the same again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adaptsvc.adapt.labels import LabelBuffer, LabeledSample
from adaptsvc.checkpoint import Checkpoint
from adaptsvc.config import Settings
from adaptsvc.images import ImageLimits, Preprocess, decode
from adaptsvc.intake import DEAD_LETTERS, IMAGES, LABELS, Intake, Source
from adaptsvc.metrics import MessageOutcome, Observer
from adaptsvc.types import Float32, UInt8
from streams.log import MemoryLog
from streams.message import Message, NewMessage, TopicPartition
from streams.topics import load_topics

HALF = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(16, "shortest", "bicubic", HALF, HALF)
CLASSES = ("cat", "dog", "żaba")


class Counter(Observer):
    def __init__(self) -> None:
        self.seen: dict[tuple[str, MessageOutcome], int] = {}

    def received(self, topic: str, outcome: MessageOutcome, messages: int) -> None:
        key = (topic, outcome)
        self.seen[key] = self.seen.get(key, 0) + messages


class Bench:
    """An intake on an in-memory log; zero-shot finds every class as likely as the others."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.log, self.observer = settings, MemoryLog(load_topics()), Counter()
        self.consumer = self.log.consumer("test", [IMAGES, LABELS])
        self.intake = self.start()

    def start(self, settings: Settings | None = None) -> Intake:
        source = Source(self.log, PREPROCESS, zero_shot)
        return Intake(source, settings or self.settings, self.observer)

    def image(self, name: str, data: bytes) -> int:
        return self.deliver(IMAGES, NewMessage(name, data))

    def label(self, name: str, data: bytes, label: str) -> int:
        """How many dead letters came of it."""
        return self.deliver(LABELS, NewMessage(name, data, {"label": label.encode()}))

    def deliver(self, topic: str, *messages: NewMessage) -> int:
        self.log.append(topic, messages)
        return self.intake.receive(self.poll())

    def poll(self) -> tuple[Message, ...]:
        return self.consumer.poll(max_messages=1000, max_bytes=10**8, timeout_s=0.0)

    def dead(self) -> tuple[Message, ...]:
        return self.log.read(TopicPartition(DEAD_LETTERS, 0), offset=0, limit=1000)

    def restarted(self, settings: Settings | None = None) -> Intake:
        """Another intake that has only the checkpoint and the stream."""
        window, labels = self.intake.references()
        saved = Checkpoint(
            offsets=self.intake.offsets,
            window=window,
            labels=labels,
            join=self.intake.join_references(),
            new_images=self.intake.new_images,
            new_labels=self.intake.new_labels,
        )
        other = self.start(settings)
        other.restore(Checkpoint.model_validate_json(saved.model_dump_json()))
        return other


def zero_shot(pixels: UInt8) -> tuple[Float32, Float32]:
    return np.full((len(pixels), 3), 1 / 3, np.float32), np.full(len(pixels), 1 / 3, np.float32)


def pixels_of(data: bytes) -> UInt8:
    return decode(data, PREPROCESS, ImageLimits())


def contents(buffer: LabelBuffer) -> list[tuple[object, ...]]:
    def content(s: LabeledSample) -> tuple[object, ...]:
        return s.image_id, s.target, s.source, s.pixels.tobytes()

    return [content(sample) for sample in buffer.samples]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, classes=CLASSES)


@pytest.fixture
def bench(settings: Settings) -> Bench:
    return Bench(settings)


def test_a_label_that_brings_its_image_is_kept_with_it(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    assert bench.label("a", png(0), "dog") == 0
    (sample,) = bench.intake.labels.samples
    assert (sample.image_id, sample.target, sample.source[0]) == ("a", 1, LABELS)
    np.testing.assert_array_equal(sample.pixels, pixels_of(png(0)))
    assert (bench.intake.new_labels, len(bench.intake.window)) == (1, 0)


def test_a_label_without_an_image_is_for_the_image_of_that_id_in_the_window(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.image("a", png(0))
    assert bench.label("a", b"", "żaba") == 0
    (sample,) = bench.intake.labels.samples
    assert (sample.image_id, sample.target) == ("a", 2)
    assert sample.source == bench.intake.window.samples[0].source
    np.testing.assert_array_equal(sample.pixels, pixels_of(png(0)))
    assert bench.intake.new_images == 1


def test_a_label_finds_the_image_that_comes_in_the_same_batch(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.log.append(LABELS, [NewMessage("a", b"", {"label": b"cat"})])
    bench.log.append(IMAGES, [NewMessage("a", png(0))])
    messages = sorted(bench.poll(), key=lambda message: message.topic)
    assert [message.topic for message in messages] == [LABELS, IMAGES]
    assert bench.intake.receive(messages) == 0
    assert len(bench.intake.labels) == 1


@pytest.mark.parametrize("label", ["bird", "Cat", " cat", ""])
def test_a_label_that_is_no_class_is_buried(
    bench: Bench, png: Callable[[int], bytes], label: str
) -> None:
    assert bench.label("a", png(0), label) == 1
    (letter,) = bench.dead()
    assert letter.headers["reason"] == b"UnknownClassError"
    assert "cat, dog, żaba" in letter.headers["error"].decode()
    assert (len(bench.intake.labels), bench.intake.new_labels) == (0, 0)


def test_a_label_that_is_not_text_is_buried(bench: Bench, png: Callable[[int], bytes]) -> None:
    assert bench.deliver(LABELS, NewMessage("a", png(0), {"label": b"\xff\xfe"})) == 1
    (letter,) = bench.dead()
    assert letter.headers["reason"] == b"UnknownClassError"
    assert letter.headers["label"] == b"\xff\xfe"


def test_a_message_without_the_header_is_buried(bench: Bench, png: Callable[[int], bytes]) -> None:
    assert bench.deliver(LABELS, NewMessage("a", png(0), {"source": b"test"})) == 1
    (letter,) = bench.dead()
    assert letter.headers["reason"] == b"UnknownClassError"
    assert letter.headers["source"] == b"test"


def test_a_label_whose_bytes_are_no_image_is_buried_with_them_and_its_origin(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.label("first", png(0), "cat")
    assert bench.label("a", b"text, not JPEG", "cat") == 1
    (letter,) = bench.dead()
    assert (letter.key, letter.value) == ("a", b"text, not JPEG")
    assert letter.headers["reason"] == b"NotAnImageError"
    assert letter.headers["origin-topic"] == LABELS.encode()
    partition, offset = (int(letter.headers[f"origin-{k}"]) for k in ("partition", "offset"))
    (origin,) = bench.log.read(TopicPartition(LABELS, partition), offset=offset, limit=1)
    assert origin.key == "a"


def test_good_and_bad_labels_of_one_batch_are_told_apart(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    good = [NewMessage(f"good-{k}", png(k), {"label": b"cat"}) for k in range(5)]
    bad = [NewMessage(f"bad-{k}", b"no image", {"label": b"cat"}) for k in range(3)]
    assert bench.deliver(LABELS, *good, *bad) == 3
    assert len(bench.intake.labels) == bench.intake.new_labels == 5
    assert bench.observer.seen[LABELS, "learned"] == 5
    assert bench.observer.seen[LABELS, "dead_letter"] == 3


def test_an_image_labeled_again_has_its_new_label_alone(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.image("a", png(0))
    bench.label("a", b"", "cat")
    bench.label("b", png(1), "cat")
    bench.label("a", b"", "dog")
    assert [(s.image_id, s.target) for s in bench.intake.labels.samples] == [("b", 0), ("a", 1)]
    assert bench.intake.new_labels == 3


def test_a_buried_label_leaves_the_one_before_in_place(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.label("a", png(0), "cat")
    assert bench.label("a", png(0), "bird") == 1
    assert [(s.image_id, s.target) for s in bench.intake.labels.samples] == [("a", 0)]


def test_a_label_keeps_its_image_when_the_window_has_forgotten_it(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    learn = settings.learn.model_copy(update={"window_images": 2})
    bench = Bench(settings.model_copy(update={"learn": learn}))
    for number in range(4):
        bench.image(f"image-{number}", png(number))
        bench.label(f"image-{number}", b"", "cat")
    assert [s.image_id for s in bench.intake.window.samples] == ["image-2", "image-3"]
    restarted = bench.restarted()
    assert contents(restarted.labels) == contents(bench.intake.labels)
    assert len(restarted.labels) == 4


def test_after_a_restart_labels_and_window_are_the_same_and_so_is_what_is_held_out(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    for number in range(12):
        bench.image(f"image-{number}", png(number))
    for number in range(24):
        value = b"" if number < 12 else png(number)
        bench.label(f"image-{number}", value, CLASSES[number % 3])
    bench.label("image-3", b"", "dog")
    before, after = bench.intake, bench.restarted()
    assert contents(after.labels) == contents(before.labels)
    held_out = [sample.image_id for sample in before.labels.held_out]
    assert held_out
    assert [sample.image_id for sample in after.labels.held_out] == held_out
    assert [s.image_id for s in after.window.samples] == [s.image_id for s in before.window.samples]
    assert (after.new_images, after.new_labels) == (12, 25)


def test_a_restart_buries_and_counts_nothing_again(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.label("a", png(0), "cat")
    bench.label("b", b"", "cat")
    seen, dead = dict(bench.observer.seen), len(bench.dead())
    assert bench.restarted().new_labels == 1
    assert (bench.observer.seen, len(bench.dead())) == (seen, dead)


def test_a_restart_that_finds_images_gone_says_how_many(
    bench: Bench, png: Callable[[int], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    bench.label("a", png(0), "cat")
    bench.log = MemoryLog(load_topics())  # as if all had been deleted by age
    assert len(bench.restarted().labels) == 0
    assert "1 images are gone from the stream or no longer fit" in caplog.text


def test_a_restart_with_other_class_names_leaves_out_the_labels_that_name_no_class(
    bench: Bench, png: Callable[[int], bytes], settings: Settings
) -> None:
    for number, label in enumerate(CLASSES):
        bench.label(label, png(number), label)
    other = settings.model_copy(update={"classes": ("dog", "cat")})
    restarted = bench.restarted(other)
    assert {(s.image_id, s.target) for s in restarted.labels.samples} == {("dog", 0), ("cat", 1)}


def test_a_restart_with_smaller_limits_leaves_out_labeled_images_that_are_too_large(
    bench: Bench, png: Callable[..., bytes], settings: Settings
) -> None:
    bench.label("large", png(0, (64, 64)), "cat")
    bench.label("small", png(1, (20, 20)), "cat")
    images = settings.images.model_copy(update={"max_side": 32})
    restarted = bench.restarted(settings.model_copy(update={"images": images}))
    assert [s.image_id for s in restarted.labels.samples] == ["small"]


def test_offsets_are_the_next_to_read_of_both_topics(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    for number in range(8):
        bench.image(f"image-{number}", png(number))
    for number in range(6):
        bench.label(f"image-{number}", b"", "cat" if number % 2 else "bird")
    positions = bench.consumer.positions()
    expected = {f"{p.topic}/{p.partition}": offset for p, offset in positions.items() if offset}
    assert bench.intake.offsets == expected
    for topic, sent in ((IMAGES, 8), (LABELS, 6)):
        counted = sum(n for name, n in expected.items() if name.startswith(topic))
        assert counted == sent
    assert bench.restarted().offsets == expected
