"""Claims about the swap: requests never notice, whatever fails keeps the old version."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptsvc.config import Settings
from adaptsvc.serving import live as live_module
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.live import Alarm, Live
from adaptsvc.serving.predictor import Predictor
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Draft
from adaptsvc.versions.pointer import Current, FilePointer, dump
from adaptsvc.versions.seal import Seal
from tests.adaptsvc.serving.lives import Fixture, Recorder


@pytest.fixture
def fixture(prepared: Settings) -> Fixture:
    return Fixture(prepared)


class Devices(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.fallbacks: list[bool] = []

    def fell_back(self, fell_back: bool) -> None:
        self.fallbacks.append(fell_back)


def version_folder(settings: Settings, version: int) -> Path:
    return settings.store / "versions" / f"{version:06d}"


def test_a_promoted_version_serves_after_one_poll(fixture: Fixture) -> None:
    before = fixture.live.current
    assert before is not None
    was = before.encoder.embed(fixture.pixels)
    version = fixture.publish().id
    fixture.pointer.compare_and_set(0, version)
    fixture.live.poll()
    assert fixture.serving == version
    assert fixture.observer.swaps == [0, version]
    assert fixture.live.current is not None
    now = fixture.live.current.encoder.embed(fixture.pixels)
    assert np.abs(now - was).max() > 1e-3
    assert np.array_equal(before.encoder.embed(fixture.pixels), was)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
@pytest.mark.parametrize("allowed", [False, True])
def test_a_missing_device_is_refused_or_where_allowed_told(fixture: Fixture, allowed: bool) -> None:
    observer = Devices()
    runtime = Runtime("cuda", fallback=allowed)
    live = Live(fixture.store, fixture.pointer, runtime, observer=observer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX Runtime's own
        live.poll()
    if allowed:
        assert live.current is not None
        assert observer.fallbacks == [True]
    else:
        assert live.current is None
        assert "version 0 was not taken" in str(live.refusal)
        assert observer.fallbacks == []


@pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)
def test_a_session_beside_one_that_serves_takes_less_time_from_it_to_get_warm(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: list[Sequence[int]] = []
    monkeypatch.setattr(Predictor, "warm", lambda _self, batches: warmed.append(batches))
    live = Live(
        fixture.store,
        fixture.pointer,
        Runtime(),
        observer=fixture.observer,
        batches=(4, 8),
        later_batches=(2,),
    )
    live.poll()
    fixture.pointer.compare_and_set(0, fixture.publish().id)
    live.poll()
    assert warmed == [(4, 8), (2,)]


def test_a_poll_without_a_change_does_nothing(fixture: Fixture) -> None:
    predictor = fixture.live.current
    fixture.live.poll()
    assert fixture.live.current is predictor


def test_going_back_is_a_swap_too(fixture: Fixture) -> None:
    version = fixture.publish().id
    fixture.pointer.compare_and_set(0, version)
    fixture.live.poll()
    fixture.pointer.force(0)
    fixture.live.poll()
    assert fixture.observer.swaps == [0, version, 0]


@pytest.mark.parametrize("name", ["manifest.json", "delta.safetensors", "head.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_version_is_refused_with_its_reason_and_the_old_one_serves_on(
    fixture: Fixture, prepared: Settings, name: str, damage: str
) -> None:
    version = fixture.publish().id
    path = version_folder(prepared, version) / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(data) // 2
        altered = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data[:middle] if damage == "truncated" else altered)
    fixture.pointer.compare_and_set(0, version)
    fixture.live.poll()
    assert fixture.serving == 0
    assert fixture.observer.failures == 1
    assert fixture.live.refusal is not None
    assert f"version {version}" in fixture.live.refusal
    assert fixture.observer.codes == ["altered"] == [fixture.live.refusal_code]


def test_a_refused_version_is_tried_again_later_and_counted_once(
    fixture: Fixture, prepared: Settings
) -> None:
    version = fixture.publish().id
    path = version_folder(prepared, version) / "head.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    fixture.pointer.compare_and_set(0, version)
    fixture.live.poll()
    fixture.now += live_module.RETRY_S
    fixture.live.poll()
    assert (fixture.serving, fixture.observer.failures) == (0, 1)
    path.write_bytes(data)
    fixture.live.poll()
    assert fixture.serving == 0, "not before the retry is due"
    fixture.now += live_module.RETRY_S
    fixture.live.poll()
    assert (fixture.serving, fixture.live.refusal) == (version, None)
    assert fixture.observer.refuses == [True, False]


def test_a_version_whose_answers_differ_from_its_self_test_is_refused(fixture: Fixture) -> None:
    zero = fixture.store.load(0)
    wrong = Head(
        zero.head.class_embeddings, zero.head.context, zero.head.self_test_embeddings + 0.01
    )
    fields = {name: getattr(zero.manifest, name) for name in Draft.model_fields}
    version = fixture.store.publish(Draft(**fields), {}, wrong).id
    fixture.pointer.compare_and_set(0, version)
    fixture.live.poll()
    assert fixture.serving == 0
    assert "self-test" in str(fixture.live.refusal)
    assert fixture.live.refusal_code == "self_test"


@pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
@pytest.mark.parametrize("code", ["schema", "foreign_base", "unsigned", "pruned", "not_found"])
def test_what_no_service_may_take_is_refused_with_its_code_and_the_old_one_serves_on(
    fixture: Fixture, prepared: Settings, code: str
) -> None:
    version = fixture.publish().id
    path = version_folder(prepared, version) / "manifest.json"
    manifest = fixture.store.manifest(version)
    if code == "schema":
        path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 0'))
    elif code == "foreign_base":
        update = {"base": "ab" * 32}
        altered = manifest.model_copy(update=update)
        sound = altered.model_copy(update={"digest": altered.content_digest()})
        path.write_bytes(sound.to_json())
    elif code == "unsigned":
        fixture.store._seal = Seal([b"k" * 32])
    elif code == "pruned":
        fixture.store.prune(version)
    else:
        version = 77
    fixture.pointer.force(version)
    fixture.live.poll()
    assert fixture.serving == 0
    assert fixture.observer.codes == [code] == [fixture.live.refusal_code]
    fixture.pointer.force(0)
    fixture.live.poll()
    assert (fixture.live.refusal, fixture.live.refusal_code) == (None, None)
    assert fixture.observer.refuses == [True, False]


def test_an_unreadable_pointer_keeps_the_version(fixture: Fixture, prepared: Settings) -> None:
    prepared.pointer.write_text("{")
    fixture.live.poll()
    assert fixture.serving == 0
    assert "pointer" in str(fixture.live.refusal)
    fixture.pointer.force(0)
    fixture.live.poll()
    assert fixture.live.refusal is None


def test_every_answer_under_load_was_computed_by_the_version_it_names(fixture: Fixture) -> None:
    """Version 1 has version 0's classes turned round, so each answer shows which one made it."""
    flipped = fixture.publish(flip=True, shift=0.0).id
    assert fixture.live.current is not None
    labels = {0: fixture.live.current.answer(fixture.pixels, 1).predictions[0].label}
    fixture.pointer.force(flipped)
    fixture.live.poll()
    labels[flipped] = fixture.live.current.answer(fixture.pixels, 1).predictions[0].label
    assert labels[0] != labels[flipped]
    wrong: list[tuple[int, str]] = []
    seen: set[int] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            predictor = fixture.live.current
            assert predictor is not None
            answer = predictor.answer(fixture.pixels, 1)
            seen.add(answer.version)
            if labels[answer.version] != answer.predictions[0].label:
                wrong.append((answer.version, answer.predictions[0].label))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        fixture.pointer.force(flipped if turn % 2 else 0)
        fixture.live.poll()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen == {0, flipped}


def test_the_following_thread_takes_a_new_version_by_itself(fixture: Fixture) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=fixture.live.follow, args=(stop, 0.01))
    thread.start()
    version = fixture.publish().id
    fixture.pointer.compare_and_set(0, version)
    arrived = _within(10.0, lambda: fixture.serving == version)
    stop.set()
    thread.join()
    assert arrived


def test_the_following_thread_outlives_what_nobody_foresaw(fixture: Fixture) -> None:
    surprises = iter([OverflowError("no error of ours")])

    class Surprising(FilePointer):
        def read(self) -> Current:
            for surprise in surprises:
                raise surprise
            return super().read()

    live = Live(
        fixture.store, Surprising(fixture.settings.pointer), Runtime(), observer=fixture.observer
    )
    stop = threading.Event()
    thread = threading.Thread(target=live.follow, args=(stop, 0.01))
    thread.start()
    arrived = _within(10.0, lambda: live.current is not None)
    stop.set()
    thread.join()
    assert arrived
    assert next(surprises, None) is None


def test_an_alarm_makes_the_following_thread_look_before_it_is_time(fixture: Fixture) -> None:
    alarm = Alarm()
    thread = threading.Thread(target=fixture.live.follow, args=(alarm, 600))
    thread.start()
    version = fixture.publish().id
    fixture.pointer.compare_and_set(0, version)
    alarm.ring()
    arrived = _within(10.0, lambda: fixture.serving == version)
    alarm.stop()
    thread.join(timeout=10)
    assert arrived
    assert not thread.is_alive()


@pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
@pytest.mark.parametrize(("threads", "lowered"), [(1, True), (2, False)])
def test_a_version_that_serves_already_is_tested_at_a_lower_priority_than_requests(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch, threads: int, lowered: bool
) -> None:
    priorities: list[int] = []
    monkeypatch.setattr(Predictor, "self_test", lambda _self: priorities.append(_priority()))
    runtime = Runtime(threads=threads)
    live = Live(fixture.store, fixture.pointer, runtime, observer=fixture.observer)
    live.poll()
    fixture.pointer.compare_and_set(0, fixture.publish().id)
    live.poll()
    own = _priority()
    assert priorities == [own, live_module.TEST_NICENESS if lowered else own]


def test_the_following_thread_looks_once_an_interval_however_long_a_swap_takes(
    fixture: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    taken = iter([0.2, 0.9, 0.0])

    class Notes:
        def wait(self, timeout: float) -> bool:
            waits.append(round(timeout, 6))
            return len(waits) == 4

    def poll() -> None:
        fixture.now += next(taken)

    monkeypatch.setattr(fixture.live, "poll", poll)
    thread = threading.Thread(target=fixture.live.follow, args=(Notes(), 0.5))
    thread.start()
    thread.join()
    assert waits == [0.5, 0.3, 0.0, 0.5]


def test_a_stopped_alarm_does_not_let_anybody_wait_again() -> None:
    alarm = Alarm()
    alarm.stop()
    alarm.ring()
    assert [alarm.wait(600), alarm.wait(0.01)] == [True, True]


@pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
def test_another_version_under_the_same_sequence_is_taken(fixture: Fixture) -> None:
    """A shared state that was set back counts again from an earlier number."""
    first, second = fixture.publish().id, fixture.publish(shift=0.2).id
    fixture.pointer.compare_and_set(0, first)
    fixture.live.poll()
    sequence = fixture.pointer.read().sequence
    fixture.settings.pointer.write_bytes(dump(Current(second, sequence)))
    fixture.live.poll()
    assert fixture.serving == second


def _priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    waiting = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if holds():
            return True
        waiting.wait(0.02)
    return False
