"""Labels that wait, expire, contradict, find images that are long gone; through restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.streaming import IMAGES, LABELS
from streams.log import MemoryLog
from streams.message import NewMessage, Position, TopicPartition
from streams.topics import load_topics
from tests.adaptsvc.intake_bench import CLASSES, PREPROCESS, Bench, pixels_of

TTL_S = 3600.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return tuned(Settings(home=tmp_path, classes=CLASSES), label_ttl_s=TTL_S)


@pytest.fixture
def bench(settings: Settings) -> Bench:
    return Bench(settings)


def tuned(settings: Settings, window_images: int = 512, **tune: Any) -> Settings:
    learn = settings.learn.model_copy(update={"window_images": window_images})
    update = {"tune": settings.tune.model_copy(update=tune), "learn": learn}
    return settings.model_copy(update=update)


def known(bench: Bench) -> dict[str, str]:
    return {s.image_id: CLASSES[s.target] for s in bench.intake.labels.samples}


def test_a_label_for_an_image_nobody_sent_is_buried_after_its_time_and_not_before(
    bench: Bench,
) -> None:
    bench.deliver(LABELS, NewMessage("a", b"", {"label": b"cat", "source": b"test"}))
    bench.clock.advance(TTL_S)
    assert bench.intake.expire(bench.clock()) == 0, "its image may still come"
    assert bench.observer.waiting_labels == 1
    bench.clock.advance(1)
    assert bench.intake.expire(bench.clock()) == 1
    (letter,) = bench.dead()
    assert (letter.key, letter.value, letter.headers["source"]) == ("a", b"", b"test")
    assert letter.headers["label"] == b"cat"
    assert letter.headers["reason"] == b"ImageNotSeenError"
    assert b"send the image with its label" in letter.headers["error"]
    assert (bench.observer.trouble, bench.observer.waiting_labels) == ({"expired": 1}, 0)
    assert bench.observer.seen[LABELS, "dead_letter"] == 1


def test_a_label_that_waits_holds_no_offset_and_survives_a_restart(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.label("a", b"", "dog")
    positions = bench.consumer.positions()
    expected = {f"{p.topic}/{p.partition}": offset for p, offset in positions.items() if offset}
    assert bench.intake.offsets == expected, "read, as far as the log is concerned"
    bench.restart()
    assert bench.observer.waiting_labels == 1
    bench.clock.advance(TTL_S - 1)
    assert bench.intake.expire(bench.clock()) == 0
    bench.image("a", png(0))
    assert known(bench) == {"a": "dog"}
    assert (bench.intake.new_labels, bench.observer.joined) == (1, 1)
    assert bench.observer.waiting_labels == 0


def test_a_label_that_waited_through_a_restart_is_buried_as_it_was_sent(bench: Bench) -> None:
    bench.deliver(LABELS, NewMessage("a", b"", {"label": b"cat", "source": b"test"}))
    bench.restart()
    bench.clock.advance(TTL_S + 1)
    bench.intake.expire(bench.clock())
    (letter,) = bench.dead()
    assert (letter.headers["source"], letter.headers["label"]) == (b"test", b"cat")
    assert letter.headers["origin-topic"] == LABELS.encode()


def test_a_label_that_is_gone_from_the_stream_is_buried_all_the_same(bench: Bench) -> None:
    bench.label("a", b"", "cat")
    bench.log = MemoryLog(load_topics())  # as if deleted by age
    bench.restart()
    bench.clock.advance(TTL_S + 1)
    assert bench.intake.expire(bench.clock()) == 1
    (letter,) = bench.dead()
    assert (letter.key, letter.headers["label"]) == ("a", b"cat")


def test_a_clock_that_jumps_back_buries_no_label(bench: Bench, png: Callable[[int], bytes]) -> None:
    bench.label("a", b"", "cat")
    bench.clock.advance(-20 * TTL_S)
    assert bench.intake.expire(bench.clock()) == 0
    bench.label("b", b"", "dog")
    bench.clock.advance(20 * TTL_S)
    assert bench.intake.expire(bench.clock()) == 0
    for name in "ab":
        bench.image(name, png(0))
    assert known(bench) == {"a": "cat", "b": "dog"}


def test_a_label_finds_an_image_that_the_window_forgot_by_reading_it_again(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(tuned(settings, window_images=2))
    for number in range(5):
        bench.image(f"image-{number}", png(number))
    bench.intake.window.take()
    bench.restart()
    bench.clock.advance(TTL_S)
    bench.intake.expire(bench.clock())
    assert bench.intake.window.get("image-0") is None
    assert bench.label("image-0", b"", "dog") == 0
    (sample,) = bench.intake.labels.samples
    assert (sample.image_id, sample.source[0]) == ("image-0", IMAGES)
    np.testing.assert_array_equal(sample.pixels, pixels_of(png(0)))


def test_a_label_whose_image_is_gone_from_the_stream_is_buried_with_that_reason(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(tuned(settings, window_images=2))
    for number in range(3):
        bench.image(f"image-{number}", png(number))
    read = bench.log.read

    def forgetful(partition: TopicPartition, *, offset: int, limit: int) -> Any:
        found = read(partition, offset=offset, limit=limit)
        return [m for m in found if partition.topic != IMAGES or m.key != "image-0"]

    bench.log.read = forgetful  # type: ignore[method-assign]
    assert bench.label("image-0", b"", "cat") == 1
    (letter,) = bench.dead()
    assert letter.headers["reason"] == b"ImageGoneError"
    assert b"image-0" in letter.headers["error"]
    assert bench.observer.trouble == {"image_gone": 1}
    bench.image("image-0", png(0))
    assert bench.label("image-0", b"", "cat") == 0, "sent again, both are good"


def test_an_image_in_the_window_takes_a_label_however_long_ago_it_came(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.image("a", png(0))
    bench.clock.advance(100 * TTL_S)
    bench.intake.expire(bench.clock())
    bench.label("a", b"", "cat")
    assert known(bench) == {"a": "cat"}


@pytest.mark.parametrize("together", [True, False])
def test_the_same_label_twice_counts_once(
    bench: Bench, png: Callable[[int], bytes], together: bool
) -> None:
    bench.image("a", png(0))
    twice = [NewMessage("a", b"", {"label": b"cat"})] * 2
    for messages in [twice] if together else [twice[:1], twice[1:]]:
        bench.deliver(LABELS, *messages)
    bench.deliver(LABELS, NewMessage("a", png(0), {"label": b"cat"}))
    assert (bench.intake.new_labels, bench.observer.joined) == (1, 1)
    assert bench.observer.trouble == {"again": 2}
    assert bench.observer.seen[LABELS, "duplicate"] == 2
    assert bench.dead() == ()


def test_labels_delivered_again_change_nothing(bench: Bench, png: Callable[[int], bytes]) -> None:
    bench.image("a", png(0))
    bench.label("a", b"", "cat")
    bench.label("a", b"", "dog")
    for partition in bench.consumer.positions():
        bench.consumer.seek({partition: 0})
    assert bench.intake.receive(bench.poll()) == 0
    assert (known(bench), bench.intake.new_labels) == ({"a": "dog"}, 2)
    assert bench.observer.trouble == {"contradicts": 1, "again": 2}
    assert bench.intake.new_images == 1


@pytest.mark.parametrize("image_first", [True, False])
def test_of_contradicting_labels_the_newest_wins_and_the_contradiction_is_counted(
    bench: Bench, png: Callable[[int], bytes], image_first: bool
) -> None:
    steps: list[Callable[[], object]] = [
        lambda: bench.image("a", png(0)),
        lambda: bench.label("a", b"", "cat") + bench.label("a", b"", "dog"),
    ]
    for step in steps if image_first else reversed(steps):
        step()
    assert known(bench) == {"a": "dog"}
    assert bench.observer.trouble == {"contradicts": 1}
    assert bench.dead() == ()


def test_a_label_said_again_after_its_image_left_the_buffer_is_learned_again(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(tuned(settings, buffer_images=2))
    for number in range(3):
        bench.label(f"image-{number}", png(number), "cat")
    assert "image-0" not in known(bench)
    bench.label("image-0", b"", "cat")
    assert "image-0" in known(bench)
    assert bench.observer.trouble == {}


def test_labeled_images_take_no_more_bytes_than_they_may(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    one = 3 * PREPROCESS.size**2 + 4 * len(settings.classes) + 1024
    bench = Bench(tuned(settings, buffer_bytes=5 * one - 1))
    for number in range(8):
        bench.label(f"image-{number}", png(number), "cat")
    buffer = bench.intake.labels
    assert (len(buffer), buffer.capacity) == (4, 4)
    assert sum(s.pixels.nbytes + s.zero_shot.nbytes for s in buffer.samples) <= 4 * one


def test_a_buffer_that_holds_not_even_two_labeled_images_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"^tune.buffer_bytes: got room of 2000 bytes"):
        Bench(tuned(settings, buffer_bytes=2000))


def test_more_labels_than_may_wait_bury_the_ones_that_came_first(settings: Settings) -> None:
    bench = Bench(tuned(settings, labels_waiting=2))
    assert [bench.label(name, b"", "cat") for name in "abc"] == [0, 0, 1]
    (letter,) = bench.dead()
    assert (letter.key, letter.headers["reason"]) == ("a", b"LabelsWaitingError")
    assert b"raise tune.labels_waiting" in letter.headers["error"]
    assert (bench.observer.trouble, bench.observer.waiting_labels) == ({"crowded_out": 1}, 2)


def test_labels_that_wait_and_no_longer_fit_the_settings_are_buried_at_the_restart(
    bench: Bench, settings: Settings, png: Callable[[int], bytes]
) -> None:
    for name, label in (("a", "cat"), ("b", "dog"), ("c", "dog")):
        bench.label(name, b"", label)
    other = tuned(settings, labels_waiting=1).model_copy(update={"classes": ("dog", "bird")})
    bench.intake = bench.restarted(other)
    reasons = {letter.key: letter.headers["reason"] for letter in bench.dead()}
    assert reasons == {"a": b"UnknownClassError", "b": b"LabelsWaitingError"}
    bench.image("c", png(0))
    assert [(s.image_id, s.target) for s in bench.intake.labels.samples] == [("c", 0)]


def test_an_unknown_class_is_counted_and_an_earlier_label_that_waits_goes_on_waiting(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.label("a", b"", "cat")
    assert bench.label("a", b"", "giraffe") == 1
    assert bench.observer.trouble == {"unknown_class": 1}
    bench.image("a", png(0))
    assert known(bench) == {"a": "cat"}


def test_a_backlog_of_days_joins_labels_that_were_read_first(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    """The clock says that the label is too old, and its image is only not read yet."""
    bench.log.append(LABELS, [NewMessage("a", b"", {"label": b"cat"})])
    bench.log.append(IMAGES, [NewMessage("a", png(0))])
    bench.clock.advance(50 * TTL_S)
    for message in sorted(bench.poll(), key=lambda each: each.topic):
        bench.intake.receive([message])
    assert known(bench) == {"a": "cat"}


def test_the_image_that_a_label_brings_is_one_that_other_labels_can_be_for(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.label("a", b"", "cat")
    bench.label("a", png(3), "dog")
    assert known(bench) == {"a": "dog"}
    bench.restart()
    bench.label("a", b"", "cat")
    assert known(bench) == {"a": "cat"}
    (sample,) = bench.intake.labels.samples
    np.testing.assert_array_equal(sample.pixels, pixels_of(png(3)))


def test_what_is_remembered_stays_small(settings: Settings, png: Callable[[int], bytes]) -> None:
    bench = Bench(tuned(settings, images_remembered=5, labels_waiting=4, window_images=2))
    for number in range(12):
        bench.image(f"image-{number}", png(number))
        bench.label(f"never-{number}", b"", "cat")
    kept = bench.intake.join_references()
    assert [row[0] for row in kept.seen] == [f"image-{k}" for k in range(7, 12)]
    assert [row[0] for row in kept.waiting] == [f"never-{k}" for k in range(8, 12)]


def test_references_say_where_to_read_again(bench: Bench, png: Callable[[int], bytes]) -> None:
    bench.image("a", png(0))
    bench.label("b", b"", "cat")
    kept = bench.intake.join_references()
    for row in (kept.seen[0], kept.waiting[0]):
        name, topic, partition, offset = row[:4]
        place = Position(TopicPartition(topic, partition), offset)
        (message,) = bench.log.read(place.partition, offset=place.offset, limit=1)
        assert message.key == name


def test_a_label_is_for_the_image_that_came_last_under_its_id(
    settings: Settings, png: Callable[[int], bytes]
) -> None:
    """The window holds the one before."""
    bench = Bench(tuned(settings))
    bench.image("a", png(0))
    (older,) = bench.intake.window.samples
    bench.image("a", png(1))
    bench.intake.window.add(older)
    assert bench.label("a", b"", "dog") == 0
    (sample,) = bench.intake.labels.samples
    assert sample.source[2] == older.source[2] + 1
    np.testing.assert_array_equal(sample.pixels, pixels_of(png(1)))
