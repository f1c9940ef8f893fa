"""Which round is due, what each starts from and comes to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.bootstrap import Ready
from adaptsvc.config import Settings
from adaptsvc.learner import Learner
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import Predictor, build
from adaptsvc.types import Float32
from adaptsvc.versions.store import Store, Version, VersionStore
from tests.adaptsvc.rounds_bench import (
    LENIENT,
    STILL,
    TUNE,
    VIT,
    Bench,
    Samples,
    bases,
    changed,
    coloured,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def loaded(store: Store, version: int) -> tuple[Version, Predictor]:
    """From disk alone, as another process has it."""
    fresh = VersionStore(store.root)
    found = fresh.load(version)
    return found, build(fresh.base(found.manifest.base), found, Runtime())


def embeddings(learner: Learner, samples: tuple[LabeledSample, ...]) -> Float32:
    found: Float32 = learner.tower.embed(
        torch.from_numpy(np.stack([s.pixels for s in samples]))
    ).numpy()
    return found


@pytest.fixture
def bench(ready: Ready, prepared: Settings) -> Bench:
    return Bench(ready, changed(prepared, guard=LENIENT, tune=TUNE))


@VIT
@pytest.mark.parametrize(
    ("images", "labels", "due"),
    [(0, 0, None), (15, 5, None), (16, 5, "images"), (15, 6, "labels"), (16, 6, "labels")],
)
def test_a_round_is_due_when_enough_is_new_and_labels_come_first(
    bench: Bench, window: Samples, images: int, labels: int, due: str | None
) -> None:
    for k in range(16):
        bench.intake.window.add(replace(window[0], image_id=str(k)))
    for sample in coloured():
        bench.intake.labels.add(sample)
    bench.intake.new_images, bench.intake.new_labels = images, labels
    assert bench.rounds.due(bench.intake) == due


@VIT
def test_no_round_on_labels_is_due_where_they_are_switched_off(bench: Bench) -> None:
    for sample in coloured():
        bench.intake.labels.add(sample)
    bench.intake.new_labels = 10**6
    assert bench.start(tune={"labels_min": 0}).due(bench.intake) is None


@VIT
def test_labels_that_are_all_held_out_start_no_round(bench: Bench) -> None:
    held_out = [s for s in coloured(64) if bench.intake.labels.is_held_out(s.image_id)]
    for sample in held_out:
        bench.intake.labels.add(sample)
    bench.intake.new_labels = 64
    assert len(held_out) > 6
    assert bench.rounds.due(bench.intake) is None


@pytest.mark.parametrize("method", ["core", "tes", "carot"])
def test_a_round_on_labels_publishes_a_version_of_its_method(bench: Bench, method: str) -> None:
    bench.start(tune={"method": method})
    done = bench.teach(coloured())
    assert (done.outcome, done.version, done.parent, done.method) == ("promoted", 1, 0, method)
    version, predictor = loaded(bench.ready.store, 1)
    assert (version.manifest.method, version.manifest.parent) == (method, 0)
    assert version.manifest.config == bench.settings.tune.model_dump(mode="json") | {
        "method": method
    }
    predictor.self_test()
    assert bench.serving == 1


def test_a_round_starts_the_count_of_its_own_kind_again(bench: Bench, window: Samples) -> None:
    bench.intake.new_images, bench.intake.new_labels = 20, 30
    bench.teach(coloured())
    assert (bench.intake.new_images, bench.intake.new_labels) == (20, 0)
    bench.intake.new_labels = 30
    bench.look(window)
    assert (bench.intake.new_images, bench.intake.new_labels) == (0, 30)
    assert bench.rounds.count == 2


def test_labels_held_out_are_never_trained_on(bench: Bench) -> None:
    """Whatever they show and say, the weights come out the same."""
    samples, held_out = coloured(), bench.intake.labels.is_held_out
    other = tuple(
        replace(s, pixels=255 - s.pixels, target=(s.target + 1) % 3) if held_out(s.image_id) else s
        for s in samples
    )
    assert 0 < sum(held_out(s.image_id) for s in samples) < len(samples)
    bench.teach(samples)
    bench.ready.pointer.force(0)
    bench.rounds.count = 0
    bench.teach(other)
    first, second = (loaded(bench.ready.store, version)[0] for version in (1, 2))
    assert all(np.array_equal(value, second.delta[name]) for name, value in first.delta.items())
    np.testing.assert_array_equal(first.head.class_embeddings, second.head.class_embeddings)


def test_labels_to_learn_from_do_change_the_weights(bench: Bench) -> None:
    other = tuple(replace(s, target=(s.target + 1) % 3) for s in coloured())
    bench.teach(coloured())
    bench.ready.pointer.force(0)
    bench.rounds.count = 0
    bench.teach(other)
    first, second = (loaded(bench.ready.store, version)[0] for version in (1, 2))
    assert not np.array_equal(first.head.class_embeddings, second.head.class_embeddings)


@VIT
def test_labels_with_nothing_to_judge_a_candidate_by_do_not_end_the_worker(bench: Bench) -> None:
    """None held out and no image in the window: no round is due, or it comes to something."""
    for sample in coloured(64):
        if not bench.intake.labels.is_held_out(sample.image_id):
            bench.intake.labels.add(sample)
    bench.intake.new_labels = 64
    if bench.rounds.due(bench.intake) == "labels":
        assert bench.rounds.run("labels", bench.intake).outcome in ("promoted", "refused", "failed")


def test_a_tuned_block_ships_a_base_of_its_own_that_answers_as_torch_does(bench: Bench) -> None:
    bench.start(tune={"trained": "last-block"})
    samples = coloured()
    assert bench.teach(samples).outcome == "promoted"
    zero, (one, predictor) = bench.ready.store.load(0), loaded(bench.ready.store, 1)
    assert one.manifest.base != zero.manifest.base
    assert bases(bench.ready.store) == {one.manifest.base, zero.manifest.base}
    found = predictor.encoder.embed(np.stack([s.pixels for s in samples]))
    np.testing.assert_allclose(found, embeddings(bench.learner, samples), atol=1e-4)
    tuned = predictor.base.tuned()
    assert tuned.keys() == bench.learner.tower.changed().keys()
    assert not set(tuned) & set(one.delta)


@VIT
def test_unlabeled_rounds_start_from_a_tuned_block_and_keep_its_base_and_head(
    bench: Bench, window: Samples
) -> None:
    bench.start(tune={"trained": "last-block"}, learn=STILL)
    bench.teach(coloured())
    done = bench.look(window)
    assert (done.outcome, done.method) == ("promoted", "ueo")
    one, two = (loaded(bench.ready.store, version)[0] for version in (1, 2))
    assert two.manifest.base == one.manifest.base
    for name, value in one.delta.items():
        np.testing.assert_array_equal(two.delta[name], value)
    np.testing.assert_allclose(two.head.class_embeddings, one.head.class_embeddings, atol=1e-6)
    assert not np.allclose(
        one.head.class_embeddings, bench.ready.store.load(0).head.class_embeddings, atol=1e-3
    )


@VIT
def test_norms_tuned_on_a_tuned_block_keep_its_base(bench: Bench) -> None:
    bench.start(tune={"trained": "last-block"})
    bench.teach(coloured())
    bench.start(tune={"trained": "norm"})
    assert bench.teach(coloured()).outcome == "promoted"
    one, two = (bench.ready.store.manifest(version) for version in (1, 2))
    assert two.base == one.base
    assert len(bases(bench.ready.store)) == 2


@VIT
def test_a_tuned_block_taken_back_to_the_start_is_on_the_base_of_the_model_itself(
    bench: Bench,
) -> None:
    """A second base of the same tower could be taken for the model's at the next start."""
    bench.start(tune={"trained": "last-block"})
    bench.teach(coloured())
    bench.start(tune={"trained": "last-block", "interpolation": 0.0})
    assert bench.teach(coloured()).outcome == "promoted"
    zero, two = (bench.ready.store.manifest(version) for version in (0, 2))
    assert two.base == zero.base
