"""Claims about a worker whose shared state does not answer, is another's, or is too small."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptsvc.config import Settings
from adaptsvc.errors import (
    LeaseLostError,
    StateUnavailableError,
    VersionTooLargeError,
)
from adaptsvc.versions.pointer import Current, FilePointer
from adaptsvc.versions.store import VersionStore
from adaptsvc.worker import POLL_TIMEOUT_S
from streams.message import NewMessage
from tests.adaptsvc.worker_bench import VIT, Bench, drain, pictures


@pytest.fixture
def bench(prepared: Settings) -> Bench:
    return Bench(prepared)


class Outage(FilePointer):
    """A pointer that does not answer the calls it is told not to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.silent: set[str] = set()

    def read(self) -> Current:
        self._answer("read")
        return super().read()

    def compare_and_set(self, expected: int | None, version: int) -> Current:
        self._answer("compare_and_set")
        return super().compare_and_set(expected, version)

    def _answer(self, call: str) -> None:
        if call in self.silent:
            raise StateUnavailableError("Redis does not answer")


@VIT
@pytest.mark.parametrize("call", ["read", "compare_and_set"])
def test_a_round_that_the_shared_state_did_not_answer_is_done_when_it_does(
    bench: Bench, png: Callable[[int], bytes], call: str
) -> None:
    outage = Outage(bench.settings.pointer)
    bench.ready = dataclasses.replace(bench.ready, pointer=outage)
    worker = bench.start()
    outage.silent = {call}
    bench.send(pictures(png, 16))
    drain(worker)
    bench.send(pictures(png, 3, start=50))
    drain(worker)
    assert bench.observer.rounds == ["stopped"]  # and not one per turn
    assert FilePointer(bench.settings.pointer).read() == Current(0, 1)
    drain(worker, now=1001.0)
    assert bench.observer.rounds == ["stopped"]
    outage.silent = set()
    drain(worker, now=1e6)  # the round that was due, before anything more is read
    drain(worker, now=1e6)
    assert bench.observer.rounds == ["stopped", "promoted"]
    assert (FilePointer(bench.settings.pointer).read().version or 0) >= 1
    assert bench.observer.messages["learned"] == 19


@VIT
def test_a_worker_that_lost_its_lease_ends_and_reads_nothing_more(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    def lost() -> None:
        raise LeaseLostError("another worker writes", 1)

    bench.send(pictures(png, 16))
    bench.check_lease = lost
    with pytest.raises(LeaseLostError):
        bench.worker.run()
    assert not any(bench.observer.messages.values())
    assert bench.waiting() == 16


@VIT
def test_a_lease_lost_in_mid_round_ends_the_worker_before_it_publishes(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    asked = iter(range(100))

    def lost() -> None:
        if next(asked) > 2:  # one turn, two steps, and before the decision
            raise LeaseLostError("another worker writes", 1)

    bench.send(pictures(png, 16))
    bench.check_lease = lost
    with pytest.raises(LeaseLostError):
        drain(bench.worker)
    assert bench.ready.store.ids() == [0]
    assert bench.serving == 0
    assert bench.waiting() == 16  # whoever comes next reads it all


@VIT
def test_a_version_too_large_for_the_shared_state_is_a_failed_round(
    bench: Bench, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise VersionTooLargeError("version 1 has 9 bytes, at most 8 go to Redis")

    monkeypatch.setattr(VersionStore, "publish", refuse)
    bench.send(pictures(png, 16))
    drain(bench.worker)
    assert (bench.observer.rounds, bench.serving) == (["failed"], 0)
    assert "at most 8 go to Redis" in bench.events()[0]["reasons"][0]


@VIT
def test_old_versions_are_pruned_after_each_promotion_and_with_retention_and_no_failure_ends_it(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    seen: list[int | None] = []

    def prune() -> None:
        seen.append(bench.serving)
        raise StateUnavailableError("gone")

    bench.prune = prune
    bench.worker.run_once(1000.0)
    assert seen == [0], "with the first retention"
    bench.send(pictures(png, 16))
    drain(bench.worker, 1001.0)
    assert seen == [0, 1], "after the promotion"
    bench.worker.run_once(1001.0 + bench.settings.stream.retention_interval_s)
    assert seen == [0, 1, 1]


@VIT
def test_a_worker_that_another_one_has_overtaken_goes_on_where_that_one_stood(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    """Its checkpoint is of before; the other's is on another machine."""
    bench.send(pictures(png, 16))
    drain(bench.worker)
    folder = bench.settings.checkpoint
    before = {file: file.read_bytes() for file in folder.iterdir()}
    bench.send(pictures(png, 32, start=16))
    drain(bench.worker, 10_000.0)
    assert bench.waiting() == 0
    for file in folder.iterdir():
        file.unlink()
    for file, content in before.items():
        file.write_bytes(content)
    bench.restart()
    assert len(bench.worker._intake.window) == 0
    rounds = len(bench.observer.rounds)
    drain(bench.worker, 20_000.0)
    assert len(bench.observer.rounds) == rounds


@VIT
def test_while_a_round_waits_for_the_shared_state_turns_wait_too(
    bench: Bench, png: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise StateUnavailableError("gone")

    bench.send(pictures(png, 16))
    monkeypatch.setattr(bench.worker._rounds, "run", away)
    drain(bench.worker)
    waited: list[float] = []
    monkeypatch.setattr(bench.stop, "wait", waited.append)
    bench.worker.run_once(1000.0)
    assert waited == [POLL_TIMEOUT_S]


@VIT
def test_labels_that_settings_no_longer_admit_are_buried_once_over_restarts(bench: Bench) -> None:
    bench.log.append("images.labeled", [NewMessage("unseen", b"", {"label": b"cat"})])
    drain(bench.worker, 1000.0)
    bench.settings = bench.settings.model_copy(update={"classes": ("dog", "bird", "car")})
    for now in (2000.0, 3000.0, 4000.0):
        bench.restart()
        drain(bench.worker, now)
        assert len(bench.all_of("images.deadletter")) == 1
