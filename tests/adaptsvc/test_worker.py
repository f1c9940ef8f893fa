"""Claims about the loop: what is read, learned, buried, checkpointed and committed, and in which order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptsvc import checkpoint as checkpoints
from adaptsvc.config import Settings
from adaptsvc.errors import (
    NonFiniteStepError,
)
from adaptsvc.learner import Learner
from tests.adaptsvc.worker_bench import Bench, drain, pictures


@pytest.fixture
def bench(prepared: Settings) -> Bench:
    return Bench(prepared)


def test_enough_images_start_a_round_whose_version_serves(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.send(pictures(png, 16))
    drain(bench.worker)
    assert bench.observer.rounds == ["promoted"]
    assert bench.serving == 1
    manifest = bench.ready.store.manifest(1)
    assert (manifest.parent, manifest.method) == (0, "ueo")
    assert sum(manifest.offsets.values()) == 16


def test_too_few_images_start_none(bench: Bench, png: Callable[[int], bytes]) -> None:
    bench.send(pictures(png, 15))
    drain(bench.worker)
    assert bench.observer.rounds == []
    assert bench.serving == 0


def test_a_message_that_is_no_image_is_buried_with_its_bytes_reason_and_origin(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.send({"bad": b"text, not JPEG", **pictures(png, 2)})
    drain(bench.worker)
    (letter,) = bench.all_of("images.deadletter")
    assert (letter.key, letter.value) == ("bad", b"text, not JPEG")
    assert letter.headers["reason"] == b"NotAnImageError"
    assert letter.headers["source"] == b"test"
    assert letter.headers["origin-topic"] == b"images.unlabeled"
    assert bench.observer.messages == {"learned": 2, "dead_letter": 1, "duplicate": 0}


def test_an_image_that_comes_twice_counts_once(bench: Bench, png: Callable[[int], bytes]) -> None:
    bench.send(pictures(png, 10))
    drain(bench.worker)
    bench.send(pictures(png, 10))
    drain(bench.worker)
    assert bench.observer.messages["learned"] == 10
    assert bench.observer.messages["duplicate"] == 10
    assert bench.observer.rounds == []


def test_offsets_are_committed_only_after_the_checkpoint_exists(
    bench: Bench, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_directory: Path, _checkpoint: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    bench.send(pictures(png, 4))
    with pytest.raises(OSError, match="No space"):
        bench.worker.run_once(1000.0)
    assert bench.waiting() == 4


def test_a_worker_that_dies_in_mid_round_reads_everything_again(
    bench: Bench, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    bench.send(pictures(png, 16))
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", die)
        with pytest.raises(KeyboardInterrupt):
            drain(bench.worker)
    restarted = bench.start()
    drain(restarted)
    assert bench.observer.rounds == ["promoted"]
    assert sum(bench.ready.store.manifest(1).offsets.values()) == 16


def test_a_restart_goes_on_with_the_same_window_count_and_rounds(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.send(pictures(png, 20))
    drain(bench.worker)
    bench.worker.run_once(10_000.0)
    saved = checkpoints.load(bench.settings.checkpoint)
    assert (saved.rounds, saved.new_images, len(saved.window)) == (1, 4, 20)
    restarted = bench.start()
    bench.send(pictures(png, 11, start=20))
    drain(restarted, 20_000.0)
    assert bench.observer.rounds == ["promoted"]
    bench.send(pictures(png, 1, start=31))
    drain(restarted, 20_000.0)
    assert bench.observer.rounds == ["promoted", "promoted"]
    assert bench.ready.store.manifest(2).metrics["window_images"] == 32


def test_an_idle_worker_checkpoints_what_it_read_after_the_interval(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.send(pictures(png, 3))
    drain(bench.worker, 1000.0)
    before = checkpoints.load(bench.settings.checkpoint)
    assert sum(before.offsets.values()) == 3, "the first checkpoint is due at once"
    bench.send(pictures(png, 3, start=3))
    drain(bench.worker, 1001.0)
    assert sum(checkpoints.load(bench.settings.checkpoint).offsets.values()) == 3
    bench.worker.run_once(1000.0 + bench.settings.learn.checkpoint_interval_s)
    assert sum(checkpoints.load(bench.settings.checkpoint).offsets.values()) == 6
    assert bench.waiting() == 6, "the stream keeps what no round has taken"


def test_a_stop_in_mid_round_leaves_the_version_and_acknowledges_what_was_read(
    bench: Bench, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.learn

    def stopping(self: Learner, *args: object, **kwargs: object) -> object:
        bench.stop.set()
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    bench.send(pictures(png, 16))
    monkeypatch.setattr(Learner, "learn", stopping)
    bench.worker.run()
    assert bench.observer.rounds == ["stopped"]
    assert bench.serving == 0
    saved = checkpoints.load(bench.settings.checkpoint)
    assert (saved.rounds, saved.new_images, len(saved.window)) == (0, 16, 16)


def test_the_worker_gives_way_before_every_step_and_a_stop_meanwhile_ends_the_round(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    """Two steps, and once more before the candidate is judged."""
    waits: list[threading.Event] = []
    bench.give_way = waits.append
    bench.send(pictures(png, 16))
    drain(bench.worker, 1000.0)
    assert len(waits) == 3
    assert bench.observer.rounds != ["stopped"]
    bench.give_way = lambda stop: stop.set()
    bench.send(pictures(png, 16, start=16))
    bench.worker.run()
    assert bench.observer.rounds[-1] == "stopped"


def test_a_round_that_fails_keeps_the_version_and_the_worker_goes_on(
    bench: Bench, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise NonFiniteStepError("NaN")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", fail)
        bench.send(pictures(png, 16))
        drain(bench.worker)
    assert (bench.observer.rounds, bench.serving) == (["failed"], 0)
    bench.send(pictures(png, 16, start=16))
    drain(bench.worker)
    assert (bench.observer.rounds, bench.serving) == (["failed", "promoted"], 1)


def test_a_refused_candidate_changes_nothing_and_is_kept_with_its_reason(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    guard = prepared.guard.model_copy(update={"marginal_entropy_kept": 1.0})
    learn = prepared.learn.model_copy(
        update={"objective": "entropy-minimisation", "learning_rate": 0.5, "passes": 20.0}
    )
    bench = Bench(prepared.model_copy(update={"guard": guard, "learn": learn}))
    bench.send(pictures(png, 16))
    drain(bench.worker)
    assert (bench.observer.rounds, bench.serving) == (["refused"], 0)
    (folder,) = bench.ready.store.refused()
    assert "marginal_collapsed" in json.loads((folder / "reason.json").read_text())["reasons"]


def test_every_round_is_told_on_the_events_topic(bench: Bench, png: Callable[[int], bytes]) -> None:
    bench.send(pictures(png, 16))
    drain(bench.worker)
    (event,) = bench.all_of("model.events")
    content = json.loads(event.value)
    assert (content["event"], content["version"], content["parent"]) == ("promoted", 1, 0)


def test_after_a_rollback_the_next_round_starts_from_the_version_that_serves(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.send(pictures(png, 16))
    drain(bench.worker)
    bench.ready.pointer.force(0)
    bench.send(pictures(png, 16, start=16))
    drain(bench.worker)
    assert bench.ready.store.manifest(2).parent == 0
