"""Claims about a worker that finds checkpoints broken, disks full, streams set back, and clocks wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from adaptsvc import checkpoint as checkpoints
from adaptsvc import worker as loop
from adaptsvc.checkpoint import NAME, PREVIOUS, Checkpoint
from adaptsvc.config import Settings
from adaptsvc.errors import DiskFullError, StateUnavailableError
from adaptsvc.rounds import Rounds
from streams.errors import LogFullError
from streams.log import MemoryLog
from streams.message import NewMessage, Position
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.adaptsvc.worker_bench import VIT, Bench, drain, pictures

pytestmark = VIT
DAY_S = 86_400.0
Png = Callable[[int], bytes]


@pytest.fixture
def bench(prepared: Settings) -> Bench:
    return Bench(prepared)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that looks for room at once."""
    monkeypatch.setattr(loop, "RETRY_S", 0.001)


class FullLog(MemoryLog):
    """A log without room for some topics, for so many appends."""

    def __init__(self) -> None:
        super().__init__(load_topics())
        self.refusals: Counter[str] = Counter()

    def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        if self.refusals[topic]:
            self.refusals[topic] -= 1
            raise LogFullError("memory", "database or disk is full (SQLITE_FULL)")
        return super().append(topic, messages)


def run_until(bench: Bench, monkeypatch: pytest.MonkeyPatch, holds: Callable[[], bool]) -> None:
    """Let the worker run as its process does, until it holds or a minute is over."""
    original, deadline = bench.worker.run_once, time.monotonic() + 60

    def turn(now: float) -> object:
        try:
            return original(now)
        finally:
            if holds() or time.monotonic() > deadline:
                bench.stop.set()

    monkeypatch.setattr(bench.worker, "run_once", turn)
    bench.worker.run()
    assert holds()


def saved(bench: Bench) -> Checkpoint:
    return checkpoints.load(bench.settings.checkpoint)


def test_a_broken_checkpoint_is_counted_and_what_came_since_the_one_before_is_read_again(
    bench: Bench, png: Png, caplog: pytest.LogCaptureFixture
) -> None:
    for turn in (0, 1):
        bench.send(pictures(png, 5, start=5 * turn))
        drain(bench.worker, 1000.0 * turn)
    file = bench.settings.checkpoint / NAME
    file.write_bytes(file.read_bytes()[:-3])
    worker = bench.start()
    assert bench.observer.refused == 1
    assert "the checkpoint before is taken" in caplog.text
    assert len(worker._intake.window) == 5
    drain(worker, 9000.0)
    assert len(worker._intake.window) == 10
    assert saved(bench).new_images == 10


def test_without_a_readable_checkpoint_the_images_that_no_round_took_come_again(
    bench: Bench, png: Png, caplog: pytest.LogCaptureFixture
) -> None:
    bench.send(pictures(png, 21))
    drain(bench.worker)
    bench.worker.run_once(10_000.0)
    expected = {sample.image_id for sample in bench.worker._intake.window.waiting}
    assert len(expected) == saved(bench).new_images == 5
    for name in (NAME, PREVIOUS):
        (bench.settings.checkpoint / name).write_bytes(b"{")
    worker = bench.start()
    assert bench.observer.refused == 2
    assert "going on from the offsets that the stream has" in caplog.text
    drain(worker, 20_000.0)
    assert expected <= {sample.image_id for sample in worker._intake.window.waiting}
    bench.send(pictures(png, 11, start=21))
    drain(worker, 30_000.0)
    assert bench.observer.rounds[:2] == ["promoted", "promoted"]


def test_a_stream_that_ends_before_the_checkpoint_is_read_from_where_the_group_stands(
    bench: Bench, png: Png, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a broker lost its tail, or a stream was begun anew."""
    bench.send(pictures(png, 20))
    drain(bench.worker)
    bench.worker.run_once(10_000.0)
    bench.log = MemoryLog(load_topics())
    bench.send(pictures(png, 4, start=100))
    worker = bench.start()
    assert "was set back, or is another stream" in caplog.text
    drain(worker, 20_000.0)
    assert sum(saved(bench).offsets.values()) == 4
    assert {f"image-{number}" for number in range(100, 104)} <= {
        sample.image_id for sample in worker._intake.window.samples
    }


@pytest.mark.usefixtures("impatient")
def test_a_checkpoint_without_room_is_written_before_anything_else_and_no_round_runs_twice(
    bench: Bench, png: Png, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original, attempts = checkpoints.save, iter(range(100))

    def save(directory: Path, checkpoint: Checkpoint) -> None:
        if next(attempts) < 3:
            raise DiskFullError(directory, Path("/"), 0)
        original(directory, checkpoint)

    monkeypatch.setattr(checkpoints, "save", save)
    bench.send(pictures(png, 20))
    run_until(bench, monkeypatch, lambda: sum(saved(bench).offsets.values()) == 20)
    assert bench.observer.rounds == ["promoted"]
    assert bench.observer.full == [True, False]
    assert caplog.text.count("this worker waits until there is room") == 1
    assert caplog.text.count("there is room again") == 1


@pytest.mark.usefixtures("impatient")
def test_a_dead_letter_without_room_is_buried_when_there_is_and_no_image_is_lost(
    prepared: Settings, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FullLog()
    bench = Bench(prepared, log)
    bench.send({"bad": b"no image", **pictures(png, 16)})
    log.refusals["images.deadletter"] = 2
    run_until(bench, monkeypatch, lambda: bench.serving == 1)
    assert {letter.key for letter in bench.all_of("images.deadletter")} == {"bad"}
    assert saved(bench).new_images == 0
    assert len(saved(bench).window) == 16


def test_a_round_counts_though_there_is_no_room_to_tell_of_it(
    prepared: Settings, png: Png, caplog: pytest.LogCaptureFixture
) -> None:
    log = FullLog()
    bench = Bench(prepared, log)
    log.refusals["model.events"] = 1
    bench.send(pictures(png, 16))
    drain(bench.worker)
    assert (bench.observer.rounds, bench.serving, bench.events()) == (["promoted"], 1, [])
    assert 'nothing tells of {"event": "promoted", "round": 1,' in caplog.text
    assert saved(bench).rounds == 1


def test_a_publication_without_room_is_repeated_with_the_same_images(
    bench: Bench, png: Png, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DiskFullError(bench.settings.store, Path("/"), 0)

    with monkeypatch.context() as patch:
        patch.setattr(bench.ready.store, "publish", refuse)
        bench.send(pictures(png, 16))
        drain(bench.worker, 1000.0)
    assert (bench.observer.rounds, bench.serving) == (["stopped"], 0)
    assert "free some" in caplog.text
    assert bench.observer.full == [True]
    drain(bench.worker, 2000.0)
    assert bench.observer.full == [True, False]
    assert "there is room again" in caplog.text
    assert (bench.observer.rounds, bench.serving) == (["stopped", "promoted"], 1)
    assert bench.observer.messages["learned"] == 16


@pytest.mark.parametrize("jump_s", [-3600.0, -DAY_S])
def test_a_clock_set_back_gives_a_checkpoint_at_once_so_that_no_age_is_negative(
    bench: Bench, png: Png, jump_s: float
) -> None:
    now, retained = 1e6, list[float]()
    bench.enforce_retention = retained.append
    bench.send(pictures(png, 3))
    drain(bench.worker, now)
    bench.worker.run_once(now + jump_s)
    assert bench.observer.checkpoints_at == [now, now + jump_s]
    assert retained == [now, now + jump_s]
    bench.worker.run_once(now + jump_s + 1)
    assert len(bench.observer.checkpoints_at) == 2, "nothing is new"


def test_a_clock_set_back_holds_up_no_round(
    bench: Bench, png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object) -> None:
        raise StateUnavailableError("Redis does not answer")

    bench.send(pictures(png, 16))
    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "run", silent)
        drain(bench.worker, 1e6)
    assert bench.worker.run_once(1e6).round is None, "it waits a little"
    assert bench.worker.run_once(1e6 - 3600).round is not None


def test_a_clock_far_ahead_deletes_no_image_that_no_round_has_taken(
    prepared: Settings, png: Png, tmp_path: Path
) -> None:
    with closing(SqliteLog(tmp_path / "log.sqlite", load_topics())) as log:
        bench = Bench(prepared, log)
        bench.enforce_retention = log.enforce_retention
        bench.send(pictures(png, 21))
        drain(bench.worker)
        expected = {sample.image_id for sample in bench.worker._intake.window.waiting}
        drain(bench.worker, time.time() + 100 * DAY_S)
        kept = [m.key for p in range(4) for m in bench.all_of("images.unlabeled", p)]
        assert len(expected) == 5
        assert expected <= {*kept}
        assert len(kept) < 21, "what was learned from may go"
        restarted = bench.start()
        assert restarted._intake.window.fresh == 5
