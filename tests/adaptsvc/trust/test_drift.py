"""Claims about the signals of a stream and the monitor that keeps them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from adaptsvc.trust.drift import DIMENSIONS, Limits, class_prior, looks_of, principal_axes, sketch
from adaptsvc.trust.monitor import Monitor
from adaptsvc.types import Float32, Float64

CLASSES = 4
LIMITS = Limits(reference_images=96, recent_images=32, classes=CLASSES, seed=1)


def stream(count: int, *, seed: int, shift: float = 0.0, first_class: float = 0.25) -> Drawn:
    """Embeddings around the centre of their class, and probabilities by their distance to each."""
    rng = np.random.default_rng(seed)
    centres = np.eye(CLASSES, 8)
    rest = (1 - first_class) / (CLASSES - 1)
    drawn = rng.choice(CLASSES, count, p=[first_class, *[rest] * (CLASSES - 1)])
    points = centres[drawn] + rng.normal(0, 0.3, (count, 8))
    points[:, -1] += shift
    embeddings = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    logits = 8 * embeddings.astype(np.float64) @ centres.T
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return embeddings, p, -np.log(np.exp(logits).sum(axis=1))


Drawn = tuple[Float32, Float64, Float64]


def feed(monitor: Monitor, drawn: Drawn) -> None:
    monitor.update(looks_of(*drawn), drawn[1])


@pytest.fixture
def monitor() -> Monitor:
    """With a reference of 96 images."""
    found = Monitor(LIMITS)
    feed(found, stream(96, seed=0))
    assert found.rebuild()
    return found


def test_what_is_kept_of_images_is_as_by_hand() -> None:
    p = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    looks = looks_of(np.eye(3, dtype=np.float32)[:2], p, np.array([1.0, 2.0]))
    assert looks.confidence == pytest.approx([0.5, 1.0])
    assert looks.entropy == pytest.approx([np.log(2), 0.0])
    assert looks.chosen.tolist() == [0, 2]
    assert len(looks[1:]) == 1


def test_a_sketch_keeps_distances_in_few_dimensions() -> None:
    points = np.random.default_rng(0).normal(size=(40, 512)).astype(np.float32)
    small = sketch(points)
    assert small.shape == (40, DIMENSIONS)
    for a, b in pairwise(range(40)):
        before, after = np.linalg.norm(points[a] - points[b]), np.linalg.norm(small[a] - small[b])
        assert after == pytest.approx(before, rel=0.35)
    assert np.array_equal(sketch(points[:, :8]), points[:, :8])


def test_principal_axes_are_of_length_1_ordered_and_signed() -> None:
    points = (np.random.default_rng(0).normal(size=(200, 3)) * (1, 5, 2)).astype(np.float32)
    axes = principal_axes(points)
    assert np.abs(axes).argmax(axis=0).tolist() == [1, 2, 0]
    assert axes.max(axis=0) == pytest.approx(np.ones(3), abs=0.05)


def test_the_first_images_are_due_to_become_the_reference() -> None:
    monitor = Monitor(LIMITS)
    feed(monitor, stream(95, seed=0))
    assert (monitor.is_due, monitor.compare(), monitor.alarms) == (False, {}, ())
    feed(monitor, stream(1, seed=1))
    assert monitor.is_due
    assert monitor.rebuild()
    assert not monitor.is_due


def test_too_few_images_make_no_reference_and_leave_the_one_before() -> None:
    monitor = Monitor(LIMITS)
    assert not monitor.rebuild()
    feed(monitor, stream(31, seed=0))
    assert not monitor.rebuild()
    assert monitor.reference is None


def test_a_stream_that_stays_as_it_is_gives_no_alarm_and_small_effects(monitor: Monitor) -> None:
    feed(monitor, stream(600, seed=1))
    monitor.failed(0)
    assert monitor.alarms == ()
    assert monitor.images == 600
    found = monitor.compare()
    assert set(found) == {"embedding", "confidence", "entropy", "classes", "ood", "decode"}
    assert abs(found["embedding"].effect) < 0.05
    assert min(each.p_value for each in found.values()) > 0.01


def test_other_images_alarm_by_their_embeddings_and_scores(monitor: Monitor) -> None:
    feed(monitor, stream(100, seed=2, shift=1.0))
    assert {"embedding", "ood"} <= set(monitor.alarms)
    assert monitor.compare()["embedding"].effect > 0.1
    assert monitor.compare()["embedding"].p_value == 0.002


def test_more_images_of_one_class_alarm_by_their_classes_alone(monitor: Monitor) -> None:
    feed(monitor, stream(60, seed=3, first_class=0.97))
    assert "classes" in monitor.alarms
    assert "confidence" not in monitor.alarms
    before, now, prior = monitor.class_shares()
    assert before[0] < 0.5 < now[0]
    assert prior[0] > 0.5
    assert prior.sum() == pytest.approx(1)


def test_messages_that_are_no_images_alarm_by_decoding_alone(monitor: Monitor) -> None:
    monitor.failed(12)
    feed(monitor, stream(20, seed=4))
    assert monitor.alarms == ("decode",)
    assert monitor.compare()["decode"].value == pytest.approx(12 / 32)


def test_a_new_reference_ends_the_alarms_and_the_stream_that_changed_is_normal(
    monitor: Monitor,
) -> None:
    feed(monitor, stream(100, seed=2, shift=1.0))
    assert monitor.alarms
    monitor.rebuild()
    assert (monitor.alarms, monitor.images) == ((), 0)
    feed(monitor, stream(200, seed=5, shift=1.0))
    assert monitor.alarms == ()


def test_a_monitor_restored_in_mid_stream_goes_on_as_if_nothing_had_happened(
    monitor: Monitor,
) -> None:
    feed(monitor, stream(30, seed=6, shift=0.4))
    monitor.failed(2)
    other = Monitor(LIMITS)
    other.restore(monitor.arrays())
    for each in (monitor, other):
        feed(each, stream(20, seed=7, shift=0.4))
        each.failed(1)
    states = [{k: v.statistic for k, v in each.detectors.items()} for each in (monitor, other)]
    assert states[0] == states[1]
    assert monitor.compare() == other.compare()
    assert (monitor.images, monitor.alarms) == (other.images, other.alarms)


def test_what_does_not_fit_is_refused(monitor: Monitor) -> None:
    arrays = monitor.arrays()
    other = Monitor(Limits(reference_images=96, recent_images=32, classes=CLASSES + 1))
    with pytest.raises(ValueError, match="expected"):
        other.restore(arrays)
    with pytest.raises(KeyError):
        Monitor(LIMITS).restore({})


def test_memory_does_not_grow_with_the_stream(monitor: Monitor) -> None:
    def size_bytes() -> int:
        return sum(array.nbytes for array in monitor.arrays().values())

    feed(monitor, stream(200, seed=8))
    before = size_bytes()
    feed(monitor, stream(400, seed=9))
    assert size_bytes() == before
    assert monitor.newest is not None
    assert len(monitor.newest) == 96


def test_the_class_prior_is_the_most_likely_one() -> None:
    """Three images to one, each 0.9 sure: 3 (0.9 - 0.8 π) = 0.1 + 0.8 π."""
    window = np.array([[0.9, 0.1]] * 3 + [[0.1, 0.9]])
    assert class_prior(window) == pytest.approx([0.8125, 0.1875])


def test_a_class_prior_of_certain_answers_is_their_share() -> None:
    assert class_prior(np.eye(3)[[0, 0, 2, 2]]) == pytest.approx([0.5, 0, 0.5])
