"""What becomes of messages: images, labels, dead letters; and that a restart finds the same again."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from adaptsvc.adapt.labels import LabelBuffer, LabeledSample
from adaptsvc.checkpoint import JoinReferences
from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.streaming import IMAGES, LABELS
from streams.log import MemoryLog
from streams.message import NewMessage, TopicPartition
from streams.topics import load_topics
from tests.adaptsvc.intake_bench import CLASSES, PREPROCESS, Bench, pixels_of


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


def limited(settings: Settings, **learn: int) -> Settings:
    return settings.model_copy(update={"learn": settings.learn.model_copy(update=learn)})


def test_the_window_holds_no_more_bytes_than_it_may(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(limited(settings, window_bytes=10_000))
    for number in range(20):
        bench.image(f"{number:02d}" * 512, png(number))
    window = bench.intake.window
    used = sum(
        s.pixels.nbytes + s.zero_shot.nbytes + len(s.image_id.encode()) for s in window.samples
    )
    assert len(window) == window.capacity == 10_000 // (PREPROCESS.size**2 * 3 + 3 * 4 + 1024)
    assert used <= 10_000 < used * 6 / 5


def test_a_window_that_holds_not_even_two_images_is_refused_with_what_it_needs(
    settings: Settings,
) -> None:
    with pytest.raises(ConfigError, match=r"learn.window_bytes: got room of 2000 bytes.*3608"):
        Bench(limited(settings, window_bytes=2000))


def test_a_window_full_of_images_that_no_round_took_wants_no_more(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(limited(settings, round_images=100, window_images=3))
    for number, left in enumerate((2, 1, 0)):
        bench.image(f"image-{number}", png(number))
        assert bench.intake.wanted == left
    assert bench.intake.window.is_full
    bench.intake.new_images = 0
    bench.intake.window.take()
    assert bench.intake.wanted == 3


def test_a_restart_wants_as_many_as_before_and_fewer_where_images_are_gone(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(limited(settings, round_images=8, window_images=8))
    for number in range(6):
        bench.image(f"image-{number}", png(number))
        if number == 2:
            bench.intake.new_images = 0
            bench.intake.window.take()
    assert (bench.intake.wanted, bench.restarted().wanted) == (5, 5)
    assert bench.restarted().window.fresh == 3
    bench.log = MemoryLog(load_topics())  # as if all had been deleted by age
    gone = bench.restarted()
    assert (gone.new_images, gone.wanted, len(gone.window)) == (0, 8, 0)


def test_a_restart_on_another_log_takes_no_other_image_for_the_one_it_had(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.image("a", png(0))
    bench.label("a", b"", "cat")
    (sample,) = bench.intake.window.samples
    bench.log = MemoryLog(load_topics())
    others = [NewMessage(f"other-{k}", png(k)) for k in range(40)]
    bench.log.append(IMAGES, others)
    topic, partition, offset = sample.source
    assert bench.log.read(TopicPartition(topic, partition), offset=offset, limit=1)
    restarted = bench.restarted()
    assert (len(restarted.window), len(restarted.labels)) == (0, 0)


@pytest.mark.parametrize("topic", [IMAGES, LABELS])
def test_an_image_id_of_megabytes_is_buried_and_not_kept(
    bench: Bench, png: Callable[[int], bytes], topic: str
) -> None:
    poison = NewMessage("ż" * 10**6, png(0), {"label": b"cat"})
    good = NewMessage("a", png(1), {"label": b"cat"})
    assert bench.deliver(topic, poison, good) == 1
    (letter,) = bench.dead()
    assert letter.headers["reason"] == b"ImageIdError"
    assert (letter.key, letter.value) == (poison.key, poison.value)
    assert len(bench.intake.window) + len(bench.intake.labels) == 1


def test_a_message_as_large_as_its_topic_allows_can_always_be_buried(bench: Bench) -> None:
    room = 10 * 2**20 - len("k") - len("label")
    assert bench.deliver(LABELS, NewMessage("k", b"", {"label": b"x" * room})) == 1
    assert bench.deliver(IMAGES, NewMessage("k" * (10 * 2**20), b"")) == 1
    escaped = {f"original-{k}": b"" for k in range(600_000)}
    assert bench.deliver(IMAGES, NewMessage("k", b"not an image", escaped)) == 1
    reasons = [letter.headers["reason"] for letter in bench.dead()]
    assert reasons == [b"UnknownClassError", b"ImageIdError", b"NotAnImageError"]
    assert [letter.headers.get("dropped") for letter in bench.dead()] == [None, None, b"headers"]
    assert bench.dead()[2].value == b"not an image"


def test_after_a_checkpoint_that_knows_of_no_join_labels_still_find_what_was_learned_from(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    """As the version before wrote it."""
    bench.image("a", png(0))
    bench.label("b", png(1), "cat")
    bench.restart(join=JoinReferences())
    for name in "ab":
        bench.label(name, b"", "dog")
    assert {s.image_id: s.target for s in bench.intake.labels.samples} == {"a": 1, "b": 1}


def test_images_without_a_key_go_by_their_bytes(bench: Bench, png: Callable[[int], bytes]) -> None:
    assert bench.deliver(IMAGES, *(NewMessage("", png(k)) for k in (0, 1, 1))) == 0
    names = {sha256(png(k)).hexdigest() for k in (0, 1)}
    assert {sample.image_id for sample in bench.intake.window.samples} == names
    assert bench.intake.new_images == 2
    assert len(bench.restarted().window) == 2


def test_a_label_without_image_and_id_is_buried(bench: Bench) -> None:
    assert bench.label("", b"", "cat") == 1
    assert bench.dead()[0].headers["reason"] == b"ImageIdError"
