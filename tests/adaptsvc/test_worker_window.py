"""Claims about a worker whose window is full of images that no round has taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adaptsvc.config import Settings
from adaptsvc.learner import Learner
from adaptsvc.rounds import Rounds
from tests.adaptsvc.worker_bench import VIT, Bench, drain, pictures, teaching


def short(settings: Settings, images: int) -> Settings:
    """Settings whose window has bytes for so many images, far fewer than start a round."""
    image_bytes = 3 * 32 * 32 + 4 * len(settings.classes) + 1024
    return teaching(
        settings,
        learn={"round_images": 100, "window_images": 200, "window_bytes": images * image_bytes},
    )


@VIT
def test_a_window_full_of_new_images_starts_a_round_and_no_image_misses_it(
    prepared: Settings, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[str] = []
    original = Learner.learn

    def noting(self: Learner, samples: Any, *args: Any, **kwargs: Any) -> Any:
        learned.extend(sample.image_id for sample in samples)
        return original(self, samples, *args, **kwargs)

    monkeypatch.setattr(Learner, "learn", noting)
    bench = Bench(short(prepared, 8))
    sent = pictures(png, 24)
    bench.send(sent)
    drain(bench.worker)
    assert bench.observer.rounds == ["promoted"] * 3
    assert sorted(learned) == sorted(sent)


@VIT
def test_a_full_window_pauses_reading_and_the_worker_stays_a_member(
    prepared: Settings, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(short(prepared, 8))
    bench.send(pictures(png, 24))
    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "due", lambda _self, _intake: None)
        assert [bench.worker.run_once(1000.0).received for _ in range(3)] == [8, 0, 0]
        assert bench.worker._consumer.lag() == 16
        assert len(bench.worker._intake.window) == 8
    drain(bench.worker)
    assert bench.observer.rounds == ["promoted"]
    drain(bench.worker)
    assert bench.observer.rounds == ["promoted"] * 3
