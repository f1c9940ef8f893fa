"""Claims about the worker's watch over the stream: what it tells, when, and what it remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptsvc.config import Settings
from adaptsvc.drift_summary import SIGNALS, DriftSummary
from adaptsvc.errors import StateUnavailableError
from adaptsvc.sections import DriftSettings
from adaptsvc.types import Float32
from adaptsvc.watching import TELL_EVERY_S, Head, Outlets, Watch

CLASSES = ("cat", "dog", "car")
HEAD = Head(np.eye(3, 8, dtype=np.float32), 10.0)


def pictures(count: int, seed: int, shift: float = 0.0) -> Float32:
    """Unit embeddings (N, D) near those of the classes."""
    rng = np.random.default_rng(seed)
    points = np.eye(3, 8)[rng.integers(0, 3, count)] + rng.normal(0, 0.3, (count, 8))
    points[:, -1] += shift
    found: Float32 = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return found


@dataclass
class Desk:
    """A watch, and what came out of it."""

    settings: Settings
    events: list[dict[str, Any]] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    reachable: bool = True

    def __post_init__(self) -> None:
        self.watch = self.start()

    def start(self) -> Watch:
        return Watch(
            self.settings, HEAD, Outlets(self.write, self.events.append, serving=lambda: 3)
        )

    def write(self, data: bytes) -> None:
        if not self.reachable:
            raise StateUnavailableError("Redis does not answer")
        self.written.append(data)

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(event["event"], event.get("signal", "")) for event in self.events]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    drift = DriftSettings(reference_images=96, recent_images=32)
    return Settings(home=tmp_path, classes=CLASSES, drift=drift)


@pytest.fixture
def desk(settings: Settings) -> Desk:
    return Desk(settings)


@pytest.fixture
def started(desk: Desk) -> Desk:
    """With a reference, of version 3."""
    desk.watch.see(pictures(96, seed=0), 0, now=100.0)
    return desk


def test_the_first_images_become_the_reference_of_the_version_that_serves(desk: Desk) -> None:
    desk.watch.see(pictures(95, seed=0), 0, now=99.0)
    assert desk.events == []
    desk.watch.see(pictures(1, seed=1), 0, now=100.0)
    expected = {"event": "drift_reference", "version": 3, "images": 96, "at": 100.0}
    assert desk.events == [expected]
    reference = desk.watch.summary(101.0).reference
    assert reference is not None
    assert (reference.version, reference.images, reference.built_at.timestamp()) == (3, 96, 100.0)


def test_a_summary_has_every_signal_with_and_without_a_reference(desk: Desk) -> None:
    assert [each.signal for each in desk.watch.summary(1.0).signals] == list(SIGNALS)
    desk.watch.see(pictures(96, seed=0), 0, now=100.0)
    desk.watch.see(pictures(40, seed=1), 1, now=101.0)
    found = desk.watch.summary(102.0)
    assert (found.images, found.recent_images) == (40, 32)
    assert [each.signal for each in found.signals] == list(SIGNALS)
    assert all(each.value is not None and not each.alarm for each in found.signals)
    assert [each.label for each in found.classes] == list(CLASSES)
    assert DriftSummary.parse(found.model_dump_json().encode()) == found


def test_an_alarm_is_told_once_when_it_begins_and_has_the_time_it_began(started: Desk) -> None:
    started.watch.see(pictures(1, seed=1), 12, now=200.0)
    started.watch.see(pictures(1, seed=2), 0, now=300.0)
    assert started.kinds == [("drift_reference", ""), ("drift_alarm", "decode")]
    (decode,) = (s for s in started.watch.summary(300.0).signals if s.signal == "decode")
    assert decode.alarm
    assert decode.since is not None
    assert decode.since.timestamp() == 200.0
    assert decode.statistic >= decode.threshold


def test_a_promotion_makes_the_newest_images_the_reference_and_ends_alarms(started: Desk) -> None:
    started.watch.see(pictures(96, seed=1, shift=1.5), 12, now=200.0)
    assert len(started.kinds) > 2
    started.watch.rebuild(4, now=250.0)
    alarmed = {name for kind, name in started.kinds if kind == "drift_alarm"}
    assert {name for kind, name in started.kinds if kind == "drift_ended"} == alarmed
    assert started.events[-1]["version"] == 4
    started.watch.see(pictures(60, seed=2, shift=1.5), 0, now=300.0)
    assert not any(each.alarm for each in started.watch.summary(300.0).signals)


def test_a_promotion_on_too_few_images_builds_no_reference(desk: Desk) -> None:
    desk.watch.see(pictures(20, seed=0), 0, now=1.0)
    desk.watch.rebuild(1, now=2.0)
    assert desk.events == []
    assert desk.watch.summary(3.0).reference is None


def test_it_is_told_when_there_is_news_and_not_too_often(started: Desk) -> None:
    watch = started.watch
    watch.tell(100.0)
    watch.see(pictures(1, seed=1), 0, now=101.0)
    watch.tell(101.0)
    assert len(started.written) == 1
    watch.tell(100.0 + TELL_EVERY_S)
    watch.tell(1000.0)
    assert len(started.written) == 2, "and nothing is new since"
    watch.see(pictures(1, seed=2), 12, now=1001.0)
    watch.tell(1001.0)
    assert len(started.written) == 3, "an alarm at once"


def test_what_could_not_be_told_is_told_later(started: Desk) -> None:
    started.reachable = False
    started.watch.tell(100.0)
    started.reachable = True
    started.watch.tell(101.0)
    assert started.written == []
    started.watch.tell(100.0 + TELL_EVERY_S)
    assert len(started.written) == 1


def test_a_restart_in_mid_alarm_goes_on_as_if_nothing_had_happened(started: Desk) -> None:
    started.watch.see(pictures(20, seed=1, shift=0.5), 12, now=200.0)
    other = Desk(started.settings)
    other.watch.restore(started.watch.save())
    for each in (started, other):
        each.watch.see(pictures(20, seed=2, shift=0.5), 1, now=300.0)
    assert other.watch.summary(300.0) == started.watch.summary(300.0)
    assert ("drift_alarm", "decode") not in other.kinds, "it had begun before"


@pytest.mark.parametrize(
    "change", [{"classes": ("cat", "dog", "bus")}, {"prompt": "a drawing of a {}."}]
)
def test_what_was_kept_for_other_classes_is_not_used(started: Desk, change: dict[str, Any]) -> None:
    other = Desk(started.settings.model_copy(update=change))
    other.watch.restore(started.watch.save())
    assert other.watch.summary(300.0).reference is None


@pytest.mark.parametrize("text", ["", "?", "AAAA", "UEsDBA=="])
def test_what_cannot_be_read_is_begun_anew(desk: Desk, text: str) -> None:
    desk.watch.restore(text)
    assert desk.watch.summary(1.0).reference is None
    desk.watch.see(pictures(96, seed=0), 0, now=100.0)
    assert desk.watch.summary(101.0).reference is not None
