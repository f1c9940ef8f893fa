"""Claims about the join of labels and images, among them that it does what a plain twin does."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.labels import GivenLabel, Joined, JoinState, LabelJoin, SeenImage, Step
from streams.message import Position, TopicPartition

TTL_S = 100.0
IMAGES, LABELS = TopicPartition("images", 0), TopicPartition("labels", 0)


def join(*, waiting: int = 100, images: int = 100) -> LabelJoin:
    return LabelJoin(ttl_s=TTL_S, most_waiting=waiting, most_images=images)


def image(name: str, offset: int = 0, at_s: float = 0.0) -> SeenImage:
    return SeenImage(name, Position(IMAGES, offset), at_s)


def label(name: str, text: str = "dog", offset: int = 0, at_s: float = 0.0) -> GivenLabel:
    return GivenLabel(name, text, Position(LABELS, offset), at_s)


def test_a_label_before_its_image_and_one_after_it_are_joined_alike() -> None:
    one, two = join(), join()
    assert one.label(label("a")).joined == ()
    assert two.image(image("a")).joined == ()
    pair = Joined(label("a"), image("a"))
    assert one.image(image("a")).joined == two.label(label("a")).joined == (pair,)
    assert one.waiting == two.waiting == 0
    assert one.state == two.state


def test_the_same_label_twice_is_said_to_be_known() -> None:
    for before in (True, False):
        each = join()
        if before:
            each.image(image("a"))
        assert not each.label(label("a")).again
        step = each.label(label("a", offset=1))
        assert (step.again, step.contradicts, len(step.joined)) == (True, False, before)


def test_a_label_delivered_again_changes_nothing_even_when_a_newer_one_came_since() -> None:
    each = join()
    each.image(image("a"))
    each.label(label("a", "cat", 5))
    assert each.label(label("a", "dog", 6)).contradicts
    before = each.state
    for stale in (label("a", "cat", 5), label("a", "dog", 6)):
        assert each.label(stale) == Step(again=True)
    assert each.state == before


@pytest.mark.parametrize("image_first", [True, False])
def test_of_contradicting_labels_the_newest_wins(image_first: bool) -> None:
    each = join()
    if image_first:
        each.image(image("a"))
    each.label(label("a", "cat", 0))
    assert each.label(label("a", "dog", 1)).contradicts
    assert image_first or each.waiting == 1
    if not image_first:
        assert [pair.given.label for pair in each.image(image("a")).joined] == ["dog"]
    assert [given.label for given in each.state.joined] == ["dog"]


def test_across_partitions_the_label_that_came_later_wins_whatever_the_clocks_say() -> None:
    each = join()
    each.image(image("a"))
    each.label(label("a", "cat", 9, at_s=500.0))
    other = GivenLabel("a", "dog", Position(TopicPartition("labels", 1), 0), at_s=1.0)
    assert [pair.given.label for pair in each.label(other).joined] == ["dog"]


def test_an_image_that_comes_again_keeps_its_label_and_is_read_where_it_lies_last() -> None:
    each = join()
    each.image(image("a", 3))
    each.label(label("a"))
    assert each.image(image("a", 8)).joined == ()
    (pair,) = each.label(label("a", "cat", 1)).joined
    assert pair.image.position.offset == 8


def test_a_label_waits_for_its_time_to_live_and_not_longer() -> None:
    each = join()
    each.label(label("a", at_s=10.0))
    assert each.expire(10.0 + TTL_S) == ()
    assert [given.image_id for given in each.expire(10.1 + TTL_S)] == ["a"]
    assert each.image(image("a")).joined == ()


def test_an_image_is_remembered_for_its_time_to_live_and_not_longer() -> None:
    each = join()
    each.image(image("a", at_s=10.0))
    each.expire(10.0 + TTL_S)
    assert each.knows("a")
    each.expire(10.1 + TTL_S)
    assert not each.knows("a")


def test_a_clock_that_jumps_back_expires_nothing() -> None:
    each = join()
    each.label(label("a", at_s=1_000_000.0))
    each.image(image("b", at_s=1_000_000.0))
    for now_s in (1_000_050.0, 5.0, -7.0, 1_000_099.0):
        assert each.expire(now_s) == ()
    assert each.waiting == 1
    assert each.knows("b")


def test_what_a_clock_that_jumped_back_stamps_is_no_older_than_what_came_before() -> None:
    each = join()
    each.label(label("a", offset=0, at_s=1_000_000.0))
    other = Position(TopicPartition("labels", 1), 0)
    each.label(GivenLabel("b", "dog", other, at_s=3.0))
    assert each.expire(1_000_000.0 + TTL_S) == ()
    restarted = join()
    restarted.restore(each.state)
    restarted.expire(1_000_001.0 + TTL_S)
    assert restarted.waiting == 0
    restarted.label(label("c", offset=2, at_s=4.0))
    assert restarted.expire(1_000_000.0 + TTL_S) == (), "also when nothing of that time is left"


def test_an_old_pair_in_a_backlog_is_joined() -> None:
    each = join()
    each.label(label("a", at_s=0.0))
    assert each.image(image("a", at_s=50 * TTL_S)).joined


def test_more_labels_than_may_wait_push_out_the_ones_that_came_first() -> None:
    each = join(waiting=2)
    assert [each.label(label(name, offset=k)).crowded_out for k, name in enumerate("ab")] == [
        (),
        (),
    ]
    assert [given.image_id for given in each.label(label("c", offset=2)).crowded_out] == ["a"]
    assert each.label(label("b", "cat", 3)).crowded_out == (), "an id waits once"
    assert [given.image_id for given in each.state.waiting] == ["c", "b"]


def test_more_images_than_are_remembered_push_out_the_first_with_its_label() -> None:
    each = join(images=2)
    each.image(image("a"))
    each.label(label("a"))
    each.image(image("b"))
    each.image(image("c"))
    assert not each.knows("a")
    assert each.state.joined == ()


def test_a_forgotten_image_is_waited_for_again() -> None:
    each = join()
    each.image(image("a"))
    each.label(label("a", offset=0))
    each.forget("a")
    each.forget("never seen")
    assert each.label(label("a", offset=1)).joined == ()
    assert each.waiting == 1


def test_a_restart_with_smaller_caps_keeps_the_newest_and_says_which_labels_it_cannot() -> None:
    each = join()
    for number, name in enumerate("abcd"):
        each.label(label(name, offset=number))
        each.image(image(name.upper(), number))
        each.label(label(name.upper(), offset=10 + number))
    smaller = join(waiting=1, images=2)
    assert [given.image_id for given in smaller.restore(each.state)] == ["a", "b", "c"]
    state = smaller.state
    assert [seen.image_id for seen in state.images] == ["C", "D"]
    assert [given.image_id for given in state.joined] == ["C", "D"]
    assert [given.image_id for given in state.waiting] == ["d"]


@pytest.mark.parametrize("wrong", [{"ttl_s": 0.0}, {"most_waiting": 0}, {"most_images": 0}])
def test_what_could_remember_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LabelJoin(**{"ttl_s": 1.0, "most_waiting": 1, "most_images": 1, **wrong})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Clock:
    """Time passes, or jumps."""

    now_s: float


Event = SeenImage | GivenLabel | Clock
NAMES, TEXTS, TIMES = st.sampled_from("abcde"), st.sampled_from(["cat", "dog"]), st.integers(0, 400)
PARTS = st.integers(0, 1)


def position(topic: str, part: int, offset: int) -> Position:
    return Position(TopicPartition(topic, part), offset)


# Offsets are drawn, not counted: messages are delivered again and out of order.
EVENTS = st.lists(
    st.one_of(
        st.builds(
            SeenImage,
            image_id=NAMES,
            position=st.builds(position, st.just("images"), PARTS, st.integers(0, 9)),
            at_s=TIMES.map(float),
        ),
        st.builds(
            GivenLabel,
            image_id=NAMES,
            label=TEXTS,
            position=st.builds(position, st.just("labels"), PARTS, st.integers(0, 9)),
            at_s=TIMES.map(float),
        ),
        st.builds(Clock, now_s=TIMES.map(float)),
    ),
    max_size=40,
)
CAPS = st.integers(1, 4)


class Twin:
    """The same by brute force: lists of what is not gone, searched from the start."""

    def __init__(self, most_waiting: int, most_images: int) -> None:
        self.most_waiting, self.most_images = most_waiting, most_images
        self.images: list[SeenImage] = []
        self.joined: list[GivenLabel] = []
        self.waiting: list[GivenLabel] = []
        self.history: list[SeenImage | GivenLabel] = []

    def stamped(self, event: SeenImage | GivenLabel) -> float:
        self.history.append(event)
        return max(each.at_s for each in self.history)

    def image(self, event: SeenImage) -> Step:
        event = replace(event, at_s=self.stamped(event))
        self.images = [i for i in self.images if i.image_id != event.image_id] + [event]
        while len(self.images) > self.most_images:
            gone = self.images.pop(0).image_id
            self.joined = [g for g in self.joined if g.image_id != gone]
        found = [g for g in self.waiting if g.image_id == event.image_id]
        self.waiting = [g for g in self.waiting if g.image_id != event.image_id]
        self.joined += found
        return Step(joined=tuple(Joined(g, event) for g in found))

    def label(self, event: GivenLabel) -> Step:
        event = replace(event, at_s=self.stamped(event))
        known = [g for g in self.joined + self.waiting if g.image_id == event.image_id]
        for other in known:
            same = other.position.partition == event.position.partition
            if same and other.position.offset >= event.position.offset:
                return Step(again=True)
        again = any(other.label == event.label for other in known)
        self.joined = [g for g in self.joined if g.image_id != event.image_id]
        self.waiting = [g for g in self.waiting if g.image_id != event.image_id]
        pairs = tuple(Joined(event, i) for i in self.images if i.image_id == event.image_id)
        (self.joined if pairs else self.waiting).append(event)
        crowded = len(self.waiting) - self.most_waiting
        out, self.waiting = self.waiting[: max(0, crowded)], self.waiting[max(0, crowded) :]
        return Step(pairs, tuple(out), again, bool(known) and not again)

    def expire(self, now_s: float) -> tuple[GivenLabel, ...]:
        old_images = {i.image_id for i in self.images if now_s - i.at_s > TTL_S}
        self.images = [i for i in self.images if i.image_id not in old_images]
        self.joined = [g for g in self.joined if g.image_id not in old_images]
        old = tuple(g for g in self.waiting if now_s - g.at_s > TTL_S)
        self.waiting = [g for g in self.waiting if g not in old]
        return old


def take(where: LabelJoin | Twin, event: Event) -> Step | tuple[GivenLabel, ...]:
    if isinstance(event, Clock):
        return where.expire(event.now_s)
    return where.image(event) if isinstance(event, SeenImage) else where.label(event)


@settings(max_examples=400)
@given(events=EVENTS, waiting=CAPS, images=CAPS)
def test_any_course_of_events_goes_as_with_the_twin_and_within_the_caps(
    events: list[Event], waiting: int, images: int
) -> None:
    each, twin = join(waiting=waiting, images=images), Twin(waiting, images)
    for event in events:
        assert take(each, event) == take(twin, event)
        state = each.state
        assert state.images == tuple(twin.images)
        assert state.waiting == tuple(twin.waiting)
        assert set(state.joined) == set(twin.joined)
        assert each.waiting == len(state.waiting) <= waiting
        assert len(state.joined) <= len(state.images) <= images


@settings(max_examples=200)
@given(events=EVENTS, cut=st.integers(0, 40))
def test_after_a_restart_anywhere_all_goes_on_as_without(events: list[Event], cut: int) -> None:
    each = join(waiting=3, images=3)
    for event in events[:cut]:
        take(each, event)
    restarted = join(waiting=3, images=3)
    assert restarted.restore(each.state) == ()
    for event in events[cut:]:
        assert take(restarted, event) == take(each, event)
    assert restarted.state == each.state


@settings(max_examples=200)
@given(
    said=st.lists(st.tuples(NAMES, TEXTS), max_size=12),
    sent=st.lists(NAMES, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_however_topics_are_read_each_image_ends_with_the_last_label_said(
    said: list[tuple[str, str]], sent: list[str], seed: int
) -> None:
    """Partitions are read in order, but never in step; within the caps and the time to live."""
    lanes: list[list[Event]] = [
        [image(name, offset) for offset, name in enumerate(sent)],
        [label(name, text, offset) for offset, (name, text) in enumerate(said)],
    ]
    draw, each, applied = random.Random(seed), join(), dict[str, str]()
    while left := [lane for lane in lanes if lane]:
        event = draw.choice(left).pop(0)
        for _delivered_again in range(draw.randint(1, 2)):
            step = take(each, event)
            assert isinstance(step, Step)
            applied |= {pair.given.image_id: pair.given.label for pair in step.joined}
    assert applied == {name: text for name, text in said if name in sent}
    assert {given.image_id for given in each.state.waiting} == {n for n, _ in said} - set(sent)


def test_a_hostile_stream_fills_no_more_than_the_caps() -> None:
    each = join(waiting=50, images=70)
    for number in range(5000):
        each.label(label(f"never-{number}", offset=number))
        each.image(image(f"image-{number}", number))
    assert (len(each.state.waiting), len(each.state.images)) == (50, 70)


def test_an_empty_state_is_that_of_a_join_that_saw_nothing() -> None:
    assert join().state == JoinState()
