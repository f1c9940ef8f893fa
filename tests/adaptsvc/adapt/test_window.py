"""The window: bounded, each image once, oldest first, a sample of those that a round has taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptsvc.adapt.window import Sample, Window, capacity

arrivals = st.lists(st.sampled_from("abcdefgh"), max_size=40)


def sample(image_id: str, weight: float = 1.0) -> Sample:
    pixels, zero_shot = np.zeros((3, 2, 2), np.uint8), np.full(2, 0.5, np.float32)
    return Sample(image_id, pixels, zero_shot, weight, ("images.unlabeled", 0, 7))


def filled(images: int, ids: list[str]) -> Window:
    window = Window(images)
    for image_id in ids:
        window.add(sample(image_id))
    return window


def names(window: Window) -> list[str]:
    return [entry.image_id for entry in window.samples]


def last_distinct(ids: list[str], count: int) -> list[str]:
    """The plain twin: walk back from the newest, keep each name once."""
    kept: list[str] = []
    for image_id in reversed(ids):
        if image_id not in kept and len(kept) < count:
            kept.append(image_id)
    return kept[::-1]


@settings(deadline=None)
@given(capacity=st.integers(1, 10), ids=arrivals)
def test_before_any_round_it_is_the_last_distinct_images_oldest_first(
    capacity: int, ids: list[str]
) -> None:
    window = filled(capacity, ids)
    assert names(window) == last_distinct(ids, capacity)
    assert len(window) == len(window.samples)


@settings(deadline=None)
@given(capacity=st.integers(1, 10), ids=arrivals)
def test_window_is_never_above_its_capacity(capacity: int, ids: list[str]) -> None:
    window = Window(capacity)
    for image_id in ids:
        window.add(sample(image_id))
        assert 1 <= len(window) <= capacity


@settings(deadline=None)
@given(ids=arrivals)
def test_redelivery_of_the_newest_image_changes_nothing(ids: list[str]) -> None:
    again = [image_id for image_id in ids for _ in range(2)]
    assert names(filled(4, again)) == names(filled(4, ids))


def test_an_image_that_comes_again_replaces_its_older_entry() -> None:
    window = filled(3, ["a", "b"])
    window.add(sample("a", weight=0.25))
    assert names(window) == ["b", "a"]
    assert window.samples[-1].weight == 0.25


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_window_that_holds_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"window of {capacity} images; it must hold at least 1"):
        Window(capacity)


@settings(deadline=None)
@given(
    images=st.integers(1, 6),
    events=st.lists(st.sampled_from([*"abcdefghij", "take"]), max_size=60),
)
def test_no_image_leaves_before_a_round_took_it_unless_the_window_is_full(
    images: int, events: list[str]
) -> None:
    window, untaken = Window(images), set[str]()
    for event in events:
        if event == "take":
            window.take()
            untaken.clear()
        elif event in names(window) or not window.is_full:
            fresh = event not in names(window)
            window.add(sample(event))
            untaken |= {event} if fresh else set()
        assert untaken <= set(names(window))
        assert (window.fresh, window.is_full) == (len(untaken), len(untaken) == images)
        assert len(window) <= images


def test_an_image_a_round_took_is_forgotten_first_however_late_it_came_again() -> None:
    window = filled(3, ["old"])
    window.take()
    for name in ("a", "b", "old", "c"):
        window.add(sample(name))
    assert names(window) == ["a", "b", "c"]


def test_those_that_rounds_took_fade_by_half_with_each_round_of_half_a_window() -> None:
    images, rounds, fades = 400, 4, []
    window = Window(images)
    for number in range(rounds):
        for each in range(images // 2 if number else images):
            window.add(sample(f"{number}-{each}"))
        window.take()
        fades.append(sum(name.startswith("0-") for name in names(window)))
    assert fades == pytest.approx([400, 200, 100, 50], rel=0.35)
    first = [int(name[2:]) for name in names(window) if name.startswith("0-")]
    assert np.mean(first) == pytest.approx(images / 2, rel=0.3)  # early or late, none is preferred


def test_a_stream_of_one_class_after_another_leaves_some_of_each() -> None:
    window = Window(64)
    for kind in "abc":
        for each in range(32):
            window.add(sample(f"{kind}{each}"))
        window.take()
    kinds = [name[0] for name in names(window)]
    assert kinds.count("c") == 32
    assert min(kinds.count("a"), kinds.count("b")) >= 8


@settings(deadline=None)
@given(before=arrivals, after=arrivals)
def test_a_window_put_together_again_goes_on_alike(before: list[str], after: list[str]) -> None:
    whole, again = filled(6, before), Window(6)
    whole.take()
    for entry in whole.samples:
        again.add(entry)
    again.take()
    for image_id in after:
        whole.add(sample(image_id))
        again.add(sample(image_id))
    assert names(whole) == names(again)


@pytest.mark.parametrize(("most_bytes", "fit"), [(20, 2), (29, 2), (30, 3), (10**9, 5)], ids=str)
def test_a_window_is_bounded_in_number_and_in_bytes(most_bytes: int, fit: int) -> None:
    assert capacity(5, most_bytes, image_bytes=10) == fit


def test_bytes_for_not_even_two_images_are_refused() -> None:
    with pytest.raises(ValueError, match="give it at least 20"):
        capacity(5, 19, image_bytes=10)
