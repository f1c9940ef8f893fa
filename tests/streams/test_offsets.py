"""The watermark never passes an unfinished message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import Message, OffsetOutOfRangeError, TopicPartition, Watermark

IMAGES = TopicPartition("images", 0)
OTHER = TopicPartition("images", 1)

offsets = st.sets(st.integers(0, 200), min_size=1)


@given(delivered=offsets, data=st.data())
def test_everything_delivered_below_the_committable_offset_is_finished(
    delivered: set[int], data: st.DataObject
) -> None:
    watermark = Watermark()
    watermark.deliver(IMAGES, sorted(delivered))
    finished: set[int] = set()
    for offset in data.draw(st.permutations(sorted(delivered))):
        watermark.finish(IMAGES, [offset])
        finished.add(offset)
        committable = watermark.committable()[IMAGES]
        assert {each for each in delivered if each < committable} <= finished
        # And it is the highest such offset: the next one delivered is not finished.
        assert committable not in finished
    assert watermark.committable() == {IMAGES: max(delivered) + 1}
    assert watermark.pending == 0


@given(delivered=offsets, data=st.data())
def test_the_order_of_finishing_does_not_matter(delivered: set[int], data: st.DataObject) -> None:
    finished = data.draw(st.lists(st.sampled_from(sorted(delivered))))
    results = []
    for order in (finished, sorted(finished), finished[::-1]):
        watermark = Watermark()
        watermark.deliver(IMAGES, delivered)
        watermark.finish(IMAGES, order)
        results.append(watermark.committable())
    assert results[0] == results[1] == results[2]


@given(delivered=offsets, data=st.data())
def test_finishing_never_moves_the_watermark_back(delivered: set[int], data: st.DataObject) -> None:
    watermark = Watermark()
    watermark.deliver(IMAGES, delivered)
    seen = [watermark.committable()[IMAGES]]
    for offset in data.draw(st.permutations(sorted(delivered))):
        watermark.finish(IMAGES, [offset])
        seen.append(watermark.committable()[IMAGES])
    assert seen == sorted(seen)


def test_a_redelivered_message_must_be_finished_again() -> None:
    watermark = Watermark()
    watermark.deliver(IMAGES, [0, 1, 2])
    watermark.finish(IMAGES, [0, 1, 2])
    watermark.deliver(IMAGES, [1])
    assert watermark.committable() == {IMAGES: 1}
    watermark.finish(IMAGES, [1])
    assert watermark.committable() == {IMAGES: 3}


def test_partitions_do_not_hold_each_other_back() -> None:
    watermark = Watermark()
    watermark.deliver_messages(Message("images", number, 4, "k", b"", {}, 0.0) for number in (0, 1))
    watermark.finish(OTHER, [4])
    assert watermark.committable() == {IMAGES: 4, OTHER: 5}
    assert watermark.pending == 1


def test_a_forgotten_partition_is_not_committed_and_its_late_work_is_ignored() -> None:
    watermark = Watermark()
    watermark.deliver(IMAGES, [0])
    watermark.forget([IMAGES, OTHER])
    watermark.finish(IMAGES, [0])
    assert watermark.committable() == {}


def test_finishing_what_was_not_delivered_is_refused() -> None:
    watermark = Watermark()
    watermark.deliver(IMAGES, [0, 1])
    with pytest.raises(OffsetOutOfRangeError, match="offset 2 of images"):
        watermark.finish(IMAGES, [2])
