"""Claims about what each kind of stream brings, and in which order."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaptsvc.evaluation.data import Entry
from adaptsvc.evaluation.stream_kinds import (
    STREAMS,
    Draw,
    Material,
    Noise,
    Sending,
    Stream,
    flip,
    noise_png,
    sendings,
)

CLASSES = ("cat", "dog", "car")


def entries(**images: int) -> tuple[Entry, ...]:
    return tuple(
        Entry(Path(name, f"{k}.png"), name) for name, count in images.items() for k in range(count)
    )


PHOTO = Material("photo", entries(cat=4, dog=3, car=5), entries(bird=2, fish=3), CLASSES)
SKETCH = Material("sketch", entries(cat=2, dog=2), entries(bird=1), CLASSES)


def sent(stream: Stream, repeat: int = 2, seed: int = 0) -> tuple[Sending, ...]:
    return sendings(stream, [PHOTO], Draw(repeat, seed))[0]


def names(some: tuple[Sending, ...]) -> list[str]:
    return [s.picture.name for s in some if isinstance(s.picture, Entry)]


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_has_the_length_of_the_ordinary_one_and_an_id_for_each_image(
    stream: Stream,
) -> None:
    some = sent(stream)
    assert len(some) == len({s.key for s in some}) == 2 * len(PHOTO.known)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_is_the_same_for_the_same_seed_and_another_for_another(stream: Stream) -> None:
    assert sent(stream) == sent(stream)
    assert sent(stream) != sent(stream, seed=1)


def test_an_ordinary_stream_sends_each_known_image_so_often_and_mixes_the_classes() -> None:
    some = sent("ordinary", repeat=3)
    assert Counter(s.picture for s in some) == Counter(dict.fromkeys(PHOTO.known, 3))
    assert names(some) != sorted(names(some))
    assert not any(s.label for s in some)


def test_class_order_sends_all_of_a_class_before_the_next() -> None:
    assert names(sent("class-order")) == ["cat"] * 8 + ["dog"] * 6 + ["car"] * 10


@pytest.mark.parametrize(("seed", "name"), [(0, "cat"), (1, "dog"), (5, "car")])
def test_one_class_sends_the_class_of_its_seed_alone(seed: int, name: str) -> None:
    some = sent("one-class", seed=seed)
    assert set(names(some)) == {name}
    assert {s.picture for s in some} == {e for e in PHOTO.known if e.name == name}


def test_all_unknown_sends_no_known_class() -> None:
    assert set(names(sent("all-unknown"))) == {"bird", "fish"}


def test_noise_sends_uniform_and_gaussian_pictures_each_once() -> None:
    some = [s.picture for s in sent("noise") if isinstance(s.picture, Noise)]
    assert len(some) == len(set(some)) == 24
    assert Counter(noise.seed % 2 for noise in some) == {0: 12, 1: 12}


@pytest.mark.parametrize(("seed", "deviation"), [(4, 73.9), (5, 50.0)])
def test_a_noise_picture_is_a_png_of_its_seed(seed: int, deviation: float) -> None:
    data = noise_png(Noise(seed), 64)
    assert data == noise_png(Noise(seed), 64) != noise_png(Noise(seed + 2), 64)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("PNG", (64, 64))
        pixels = np.asarray(picture, np.float64)
    assert abs(pixels.mean() - 127.5) < 3
    assert abs(pixels.std() - deviation) < 3


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_flipping_leaves_no_class_its_own_name_and_gives_none_twice(
    classes: int, seed: int
) -> None:
    own = [str(k) for k in range(classes)]
    flipped = flip(own, np.random.default_rng(seed))
    assert list(flipped) == own
    assert sorted(flipped.values()) == own
    assert not any(name == other for name, other in flipped.items())


def test_flipped_labels_are_wrong_every_time_and_the_same_for_a_class() -> None:
    some = sent("flipped-labels")
    told = {(name, s.label) for name, s in zip(names(some), some, strict=True)}
    assert len(told) == len(CLASSES)
    assert {label for _, label in told} == set(CLASSES)
    assert not any(name == label for name, label in told)


def test_domains_sends_one_domain_after_the_other_and_one_that_comes_again_under_new_ids() -> None:
    parts = sendings("domains", [PHOTO, SKETCH, PHOTO], Draw(1, 0))
    assert [len(part) for part in parts] == [12, 4, 12]
    assert {s.picture for s in parts[0]} == {s.picture for s in parts[2]} == set(PHOTO.known)
    assert len({s.key for part in parts for s in part}) == 28
