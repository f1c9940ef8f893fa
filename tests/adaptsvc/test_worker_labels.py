"""Claims about a worker that is given labels: rounds on them, and labels that wait for their images."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from adaptsvc import checkpoint as checkpoints
from adaptsvc.config import Settings
from adaptsvc.learner import Learner
from adaptsvc.types import Float32
from streams.message import NewMessage
from tests.adaptsvc.worker_bench import VIT, Bench, drain, pictures, teaching


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
