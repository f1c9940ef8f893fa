"""The label buffer: what stays, what is held out, and that neither depends on when an image came."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from adaptsvc.adapt.labels import LabelBuffer, LabeledSample

EVEN = np.full(3, 1 / 3, np.float32)
PIXELS = np.zeros((3, 1, 1), np.uint8)


def sample(number: int, target: int = 0) -> LabeledSample:
    return LabeledSample(f"image-{number}", PIXELS, target, ("images.labeled", 0, number), EVEN)


def filled(numbers: range, capacity: int = 1000, share: float = 0.25) -> LabelBuffer:
    buffer = LabelBuffer(capacity, share)
    for number in numbers:
        buffer.add(sample(number))
    return buffer


def ids(samples: tuple[LabeledSample, ...]) -> list[str]:
    return [sample.image_id for sample in samples]


def test_both_parts_together_are_the_buffer_and_share_nothing() -> None:
    buffer = filled(range(200))
    assert sorted(ids(buffer.training) + ids(buffer.held_out)) == sorted(ids(buffer.samples))
    assert not set(ids(buffer.training)) & set(ids(buffer.held_out))


def test_samples_come_oldest_first_in_each_part() -> None:
    buffer = filled(range(50))
    order = [f"image-{number}" for number in range(50)]
    assert ids(buffer.samples) == order
    assert ids(buffer.held_out) == [name for name in order if buffer.is_held_out(name)]
    assert ids(buffer.training) == [name for name in order if not buffer.is_held_out(name)]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_about_the_share_asked_for_is_held_out(share: float) -> None:
    buffer = filled(range(4000), capacity=4000, share=share)
    assert len(buffer.held_out) / 4000 == pytest.approx(share, abs=0.03)


def test_an_image_is_held_out_when_the_crc_of_its_id_says_so() -> None:
    buffer = LabelBuffer(10, 0.25)
    for name in (f"żaba-{number}" for number in range(100)):
        assert buffer.is_held_out(name) == (zlib.crc32(name.encode()) % 1000 < 250)


def test_an_image_is_held_out_or_not_in_every_buffer_alike() -> None:
    first, second = filled(range(100)), filled(range(99, -1, -1))
    assert set(ids(first.held_out)) == set(ids(second.held_out))


def test_a_larger_share_holds_out_the_same_images_and_more() -> None:
    small, large = filled(range(500), share=0.1), filled(range(500), share=0.4)
    assert set(ids(small.held_out)) < set(ids(large.held_out))


def test_the_oldest_leaves_a_full_buffer() -> None:
    buffer = filled(range(7), capacity=5)
    assert ids(buffer.samples) == [f"image-{number}" for number in range(2, 7)]


def test_a_new_label_replaces_the_old_one_and_counts_as_the_newest() -> None:
    buffer = filled(range(3), capacity=3)
    buffer.add(sample(0, target=2))
    assert ids(buffer.samples) == ["image-1", "image-2", "image-0"]
    assert [found.target for found in buffer.samples] == [0, 0, 2]
    buffer.add(sample(9))
    assert ids(buffer.samples) == ["image-2", "image-0", "image-9"]


def test_a_new_label_stays_in_the_part_of_its_image() -> None:
    buffer = filled(range(40))
    before = ids(buffer.held_out)
    for number in range(40):
        buffer.add(sample(number, target=1))
    assert ids(buffer.held_out) == before


@pytest.mark.parametrize(("capacity", "share"), [(1, 0.5), (0, 0.5), (5, 0.0), (5, 1.0), (5, -0.1)])
def test_a_buffer_without_room_for_both_parts_is_refused(capacity: int, share: float) -> None:
    with pytest.raises(ValueError, match=f"a buffer of {capacity} labels and a held-out share of"):
        LabelBuffer(capacity, share)
