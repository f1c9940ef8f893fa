"""Claims about the loop: what is read, learned, buried, checkpointed and committed, and in which order."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adaptsvc import checkpoint as checkpoints
from adaptsvc.bootstrap import Ready, prepare
from adaptsvc.config import Settings
from adaptsvc.errors import (
    LeaseLostError,
    NonFiniteStepError,
    StateUnavailableError,
    VersionTooLargeError,
)
from adaptsvc.learner import Learner
from adaptsvc.metrics import MessageOutcome, Observer, Outcome
from adaptsvc.publishing import Publisher
from adaptsvc.rounds import Rounds
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import build
from adaptsvc.types import Float32
from adaptsvc.versions.pointer import Current, FilePointer
from adaptsvc.versions.store import VersionStore
from adaptsvc.worker import Parts, Worker
from streams.log import MemoryLog
from streams.message import NewMessage, TopicPartition
from streams.topics import load_topics


class Counter(Observer):
    def __init__(self) -> None:
        self.messages: dict[str, int] = {}
        self.rounds: list[str] = []

    def received(self, topic: str, outcome: MessageOutcome, messages: int) -> None:
        self.messages[outcome] = self.messages.get(outcome, 0) + messages

    def round_ended(self, method: str, outcome: Outcome, seconds: float, images: int) -> None:
        self.rounds.append(outcome)


class Bench:
    """A worker on an in-memory log, and everything around it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = MemoryLog(load_topics())
        self.ready: Ready = prepare(settings)
        self.observer = Counter()
        self.stop = threading.Event()
        self.check_lease: Callable[[], None] = lambda: None
        self.prune: Callable[[], object] = lambda: None
        self.worker = self.start()

    def start(self) -> Worker:
        ready, runtime = self.ready, Runtime()
        learner = Learner(ready.clip, ready.prompt, ready.encoder)
        publisher = Publisher(ready.store, ready.pointer, runtime, self.settings)
        parts = Parts(
            log=self.log,
            store=ready.store,
            pointer=ready.pointer,
            learner=learner,
            publisher=publisher,
            preprocess=ready.clip.preprocess,
            observer=self.observer,
            check_lease=lambda: self.check_lease(),
            prune=lambda: self.prune(),
        )
        worker = Worker(parts, self.settings, self.stop)
        worker.restore()
        return worker

    def send(self, pictures: Mapping[str, bytes]) -> None:
        messages = [NewMessage(name, data, {"source": b"test"}) for name, data in pictures.items()]
        self.log.append("images.unlabeled", messages)

    def teach(self, count: int, start: int = 0) -> None:
        """Labeled pictures, one colour per class; five of the first sixteen are held out."""
        messages = [
            NewMessage(
                f"taught-{k}", one_colour(k), {"label": self.settings.classes[k % 3].encode()}
            )
            for k in range(start, start + count)
        ]
        self.log.append("images.labeled", messages)

    def restart(self) -> Worker:
        """As another process would: the model loaded anew, all else from disk and the stream."""
        self.ready = prepare(self.settings)
        self.worker = self.start()
        return self.worker

    def waiting(self) -> int:
        """Messages that a worker starting now would be given."""
        return self.log.consumer(
            self.settings.stream.group, ["images.unlabeled", "images.labeled"], member="worker"
        ).lag()

    def all_of(self, topic: str, partition: int = 0) -> list[NewMessage]:
        found = self.log.read(TopicPartition(topic, partition), offset=0, limit=1000)
        return [NewMessage(m.key, m.value, m.headers) for m in found]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(message.value) for message in self.all_of("model.events")]

    @property
    def serving(self) -> int | None:
        return self.ready.pointer.read().version


COLOURS = ((230, 30, 30), (30, 200, 60), (40, 60, 240))
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
# Random towers keep little of what the guard asks for; what it refuses has tests of its own.
LENIENT = {"agreement": 0.0, "marginal_entropy_kept": 0.0}
TUNE = {"labels_min": 16, "passes": 2.0, "batch_images": 6}


def one_colour(number: int) -> bytes:
    """A picture of the colour of its class, a little darker than the one before."""
    colour = tuple(value - number % 16 for value in COLOURS[number % 3])
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


def teaching(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """Settings under which sixteen labels start a round."""
    merged: dict[str, dict[str, Any]] = {"guard": LENIENT, "tune": TUNE}
    for name, values in sections.items():
        merged[name] = {**merged.get(name, {}), **values}
    update = {name: getattr(settings, name).model_copy(update=v) for name, v in merged.items()}
    return settings.model_copy(update=update)


@pytest.fixture
def bench(prepared: Settings) -> Bench:
    return Bench(prepared)


def pictures(png: Callable[[int], bytes], count: int, start: int = 0) -> dict[str, bytes]:
    return {f"image-{index}": png(index) for index in range(start, start + count)}


def drain(worker: Worker, now: float = 1000.0) -> None:
    while worker.run_once(now).received:
        pass


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
    assert bench.waiting() == 0


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


def test_enough_labels_start_a_round_whose_version_serves(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared))
    bench.send(pictures(png, 6))
    bench.teach(16)
    drain(bench.worker)
    assert (bench.observer.rounds, bench.serving) == (["promoted"], 1)
    manifest = bench.ready.store.manifest(1)
    assert (manifest.parent, manifest.method) == (0, "core")
    counted = {topic: 0 for topic in ("images.unlabeled", "images.labeled")}
    for name, offset in manifest.offsets.items():
        counted[name.rpartition("/")[0]] += offset
    assert counted == {"images.unlabeled": 6, "images.labeled": 16}
    assert manifest.base == bench.ready.store.manifest(0).base


@VIT
def test_too_few_labels_start_none(prepared: Settings) -> None:
    bench = Bench(teaching(prepared))
    bench.teach(15)
    drain(bench.worker)
    assert (bench.observer.rounds, bench.serving) == ([], 0)
    bench.teach(1, start=15)
    drain(bench.worker)
    assert bench.observer.rounds == ["promoted"]


@VIT
def test_a_round_on_labels_is_told_on_the_events_topic_with_its_figures(
    prepared: Settings,
) -> None:
    bench = Bench(teaching(prepared))
    bench.teach(16)
    drain(bench.worker)
    (event,) = bench.events()
    assert (event["event"], event["method"], event["round"]) == ("promoted", "core", 1)
    assert (event["version"], event["parent"], event["action"]) == (1, 0, "continue")
    assert (event["reasons"], event["images"]) == ([], 11)
    assert event["figures"]["labels_judged_by"] == 5
    assert {"accuracy_change_on_labels", "nll_change_on_labels"} <= event["figures"].keys()


@VIT
def test_after_a_restart_labels_are_the_same_and_are_not_read_again(prepared: Settings) -> None:
    bench = Bench(teaching(prepared))
    bench.teach(18)
    drain(bench.worker)
    bench.worker.run_once(10_000.0)
    saved = checkpoints.load(bench.settings.checkpoint)
    assert (len(saved.labels), saved.new_labels, saved.rounds) == (18, 2, 1)
    assert bench.waiting() == 0
    bench.restart()
    drain(bench.worker, 20_000.0)
    assert bench.observer.rounds == ["promoted"]
    bench.teach(14, start=18)
    drain(bench.worker, 20_000.0)
    assert bench.observer.rounds == ["promoted", "promoted"]
    assert len(checkpoints.load(bench.settings.checkpoint).labels) == 32


@pytest.mark.parametrize("backlog", [False, True], ids=["read one by one", "backlog"])
@VIT
def test_labels_sent_after_their_images_find_them_in_the_window(
    prepared: Settings, png: Callable[[int], bytes], backlog: bool
) -> None:
    """Also when the worker was away, and finds both topics full."""
    bench = Bench(teaching(prepared, tune={"labels_min": 8}))
    bench.send(pictures(png, 12, start=20))
    if not backlog:
        drain(bench.worker)
    labels = [NewMessage(f"image-{k}", b"", {"label": b"cat"}) for k in range(20, 32)]
    bench.log.append("images.labeled", labels)
    drain(bench.worker)
    assert bench.all_of("images.deadletter") == []
    assert bench.events()[0]["method"] == "core"


def torch_answers(bench: Bench, version: int) -> Float32:
    """Embeddings of four pictures by a CLIP loaded anew, with what the store has of a version."""
    ready = prepare(bench.settings)
    learner, found = Learner(ready.clip, ready.prompt, ready.encoder), ready.store.load(version)
    learner.load(found, ready.store.base(found.manifest.base).tuned())
    embeddings: Float32 = learner.tower.embed(torch.from_numpy(four_pictures())).numpy()
    return embeddings


def four_pictures() -> Any:
    return np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)


def served_answers(bench: Bench, version: int) -> Float32:
    """The same by ONNX Runtime, as another process would serve them."""
    store = VersionStore(bench.settings.store)
    found = store.load(version)
    return build(store.base(found.manifest.base), found, Runtime()).encoder.embed(four_pictures())


def test_a_whole_model_is_served_learned_on_and_found_again_after_a_restart(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    settings = teaching(
        prepared,
        tune={"trained": "last-block"},
        learn={"learning_rate": 0.0, "context_learning_rate": 0.0},
    )
    bench = Bench(settings)
    bench.teach(16)
    drain(bench.worker)
    zero, one = (bench.ready.store.manifest(version) for version in (0, 1))
    assert one.base != zero.base
    np.testing.assert_allclose(served_answers(bench, 1), torch_answers(bench, 1), atol=1e-4)
    assert np.abs(served_answers(bench, 1) - served_answers(bench, 0)).max() > 1e-3
    bench.restart()
    assert bench.serving == 1, "the version for these classes and this model goes on serving"
    bench.send(pictures(png, 16))
    drain(bench.worker)
    two = bench.ready.store.manifest(2)
    assert (two.method, two.parent, two.base) == ("ueo", 1, one.base)
    np.testing.assert_allclose(served_answers(bench, 2), served_answers(bench, 1), atol=1e-5)


@VIT
def test_after_a_restart_zero_shot_is_still_the_model_nothing_was_learned_for(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared, tune={"trained": "last-block"}))
    learner = bench.worker._parts.learner
    before = learner.zero_shot(four_pictures(), 1.0)[0]
    bench.teach(16)
    drain(bench.worker)
    bench.restart()
    after = bench.worker._parts.learner.zero_shot(four_pictures(), 1.0)[0]
    np.testing.assert_allclose(after, before, atol=1e-6)


STRICT = {"agreement": 1.0, "confident_share": 1.0, "marginal_entropy_kept": 1.0}
COLLAPSE = {"objective": "entropy-minimisation", "learning_rate": 0.5, "passes": 4.0}


@VIT
def test_refusals_count_on_over_a_restart_until_learning_is_frozen(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared, guard={**STRICT, "cool_down_rounds": 1}, learn=COLLAPSE))
    for turn in range(5):
        bench.send(pictures(png, 16, start=16 * turn))
        drain(bench.worker)
        bench.restart()
    assert bench.observer.rounds == [*["refused"] * 3, "skipped", "refused"]
    events = bench.events()
    assert [event["action"] for event in events] == [
        *["continue"] * 2,
        "freeze",
        *["continue"] * 2,
    ]
    assert events[3]["reasons"] == ["frozen_after_refusals"]
    assert events[3]["figures"] == {}
    saved = checkpoints.load(bench.settings.checkpoint)
    assert (saved.rounds, saved.patience["refusals"], saved.patience["freezes"]) == (5, 1, 1)


@VIT
def test_a_window_of_one_class_is_skipped_with_its_reason_and_the_worker_goes_on(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared, guard={"window_classes": 100.0}))
    bench.send({f"image-{k}": png(0) for k in range(16)})
    drain(bench.worker)
    (event,) = bench.events()
    assert (event["event"], event["reasons"]) == ("skipped", ["window_too_uniform"])
    assert (bench.observer.rounds, bench.serving) == (["skipped"], 0)
    saved = checkpoints.load(bench.settings.checkpoint)
    assert (saved.rounds, saved.new_images, len(saved.window)) == (1, 0, 16)


@VIT
def test_a_stop_in_mid_round_on_labels_keeps_them_for_the_next_start(
    prepared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(teaching(prepared))
    original = Learner.class_embeddings

    def stopping(self: Learner) -> Float32:
        bench.stop.set()
        return original(self)

    bench.teach(16)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "class_embeddings", stopping)
        bench.worker.run()
    assert (bench.observer.rounds, bench.serving) == (["stopped"], 0)
    assert checkpoints.load(bench.settings.checkpoint).new_labels == 16
    bench.stop.clear()
    bench.restart()
    drain(bench.worker)
    assert (bench.observer.rounds, bench.serving) == (["stopped", "promoted"], 1)


@VIT
def test_a_worker_whose_class_names_changed_starts_again(prepared: Settings) -> None:
    bench = Bench(teaching(prepared))
    bench.teach(16)
    drain(bench.worker)
    bench.settings = bench.settings.model_copy(update={"classes": ("cat", "dog", "lorry")})
    bench.restart()
    assert bench.ready.store.manifest(bench.serving or 0).classes == ("cat", "dog", "lorry")


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


@VIT
def test_a_label_that_waits_is_committed_and_not_lost_by_a_kill(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared))
    bench.log.append("images.labeled", [NewMessage("image-3", b"", {"label": b"dog"})])
    drain(bench.worker)
    assert bench.waiting() == 0, "nothing is read again"
    bench.restart()
    bench.send(pictures(png, 4))
    drain(bench.worker, 20_000.0)
    (reference,) = checkpoints.load(bench.settings.checkpoint).labels
    assert (reference.image_id, reference.label) == ("image-3", "dog")
    assert bench.all_of("images.deadletter") == []


@VIT
def test_a_label_read_after_the_last_checkpoint_is_read_again_after_a_kill(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared))
    bench.send(pictures(png, 1))
    drain(bench.worker)
    bench.log.append("images.labeled", [NewMessage("image-3", b"", {"label": b"dog"})])
    drain(bench.worker)
    assert checkpoints.load(bench.settings.checkpoint).join.waiting == ()
    bench.restart()
    drain(bench.worker, 20_000.0)
    (waiting,) = checkpoints.load(bench.settings.checkpoint).join.waiting
    assert (waiting[0], waiting[-1]) == ("image-3", "dog")


@VIT
def test_a_label_that_waited_in_vain_is_buried_once_and_forgotten_in_the_checkpoint(
    prepared: Settings,
) -> None:
    bench = Bench(teaching(prepared, tune={"label_ttl_s": 100.0}))
    bench.log.append("images.labeled", [NewMessage("a", b"", {"label": b"dog"})])
    drain(bench.worker)
    later = time.time() + 1000.0
    assert bench.worker.run_once(later).dead_letters == 1
    assert checkpoints.load(bench.settings.checkpoint).join.waiting == ()
    bench.restart()
    assert bench.worker.run_once(later).dead_letters == 0
    (letter,) = bench.all_of("images.deadletter")
    assert letter.headers["reason"] == b"ImageNotSeenError"


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
