"""Which round is due, what each starts from and comes to, and what repeated trouble leads to."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import Ready
from adaptsvc.config import Settings
from adaptsvc.intake import Intake, Source
from adaptsvc.learner import Learner
from adaptsvc.metrics import Observer
from adaptsvc.publishing import Publisher
from adaptsvc.rounds import Parts, Round, Rounds, StopRound
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import Predictor, build
from adaptsvc.trust.patience import Patience
from adaptsvc.types import Float32, UInt8
from adaptsvc.versions.store import Store, Version, VersionStore
from streams.log import MemoryLog
from streams.topics import load_topics

pytestmark = pytest.mark.usefixtures("one_thread")
Samples = tuple[Sample, ...]
COLOURS = ((230, 30, 30), (30, 200, 60), (40, 60, 240))
EVEN = np.full(3, 1 / 3, np.float32)
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
LENIENT = {
    "agreement": 0.0,
    "marginal_entropy_kept": 0.0,
    "class_kept": 0.0,
    "window_sure_share": 0.0,
    "labels_min": 1000,
}
# No candidate keeps every answer and the marginal entropy while it minimises its entropy like this.
STRICT = {**LENIENT, "agreement": 1.0, "confident_share": 1.0, "marginal_entropy_kept": 1.0}
COLLAPSE = {"objective": "entropy-minimisation", "learning_rate": 0.5, "passes": 4.0}
TUNE = {"labels_min": 6, "passes": 2.0, "batch_images": 6}
STILL = {"learning_rate": 0.0, "context_learning_rate": 0.0}


class Counter(Observer):
    def __init__(self) -> None:
        self.returns = 0

    def went_back(self) -> None:
        self.returns += 1


class Bench:
    """Rounds on a prepared store, and an intake that tests fill by hand."""

    def __init__(self, ready: Ready, settings: Settings) -> None:
        self.ready, self.settings, self.observer = ready, settings, Counter()
        self.learner = Learner(ready.clip, ready.prompt, ready.encoder)
        source = Source(MemoryLog(load_topics()), ready.clip.preprocess, self.zero_shot)
        self.intake = Intake(source, settings, self.observer)
        self.rounds = self.start()

    def zero_shot(self, pixels: UInt8) -> tuple[Float32, Float32]:
        return self.learner.zero_shot(pixels, 1.0)

    def start(self, **sections: dict[str, Any]) -> Rounds:
        """Rounds with some settings changed, on the same store and learner."""
        settings = changed(self.settings, **sections)
        publisher = Publisher(self.ready.store, self.ready.pointer, Runtime(), settings)
        parts = Parts(self.ready.store, self.ready.pointer, self.learner, publisher, self.observer)
        self.rounds = Rounds(parts, settings, between_steps=lambda: None)
        return self.rounds

    def look(self, window: Samples) -> Round:
        """A round on images."""
        for sample in window:
            self.intake.window.add(sample)
        return self.rounds.run("images", self.intake)

    def teach(self, samples: tuple[LabeledSample, ...]) -> Round:
        """A round on labels."""
        for sample in samples:
            self.intake.labels.add(sample)
        return self.rounds.run("labels", self.intake)

    @property
    def serving(self) -> int | None:
        return self.ready.pointer.read().version


def changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    update = {
        name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()
    }
    return settings.model_copy(update=update)


def coloured(count: int = 16) -> tuple[LabeledSample, ...]:
    """Pictures of one colour per class; five of the first sixteen are held out."""
    pixels = [
        np.full((32, 32, 3), COLOURS[k % 3], np.uint8).transpose(2, 0, 1) for k in range(count)
    ]
    return tuple(
        LabeledSample(
            f"taught-{k}", image - np.uint8(k % 16), k % 3, ("images.labeled", 0, k), EVEN
        )
        for k, image in enumerate(pixels)
    )


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


def bases(store: Store) -> set[str]:
    return {path.name for path in (store.root / "base").iterdir()}


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


@VIT
def test_a_refused_whole_model_leaves_no_base_behind(bench: Bench) -> None:
    bench.start(
        tune={"trained": "last-block", "learning_rate": 0.0001},
        guard={**STRICT, "marginal_entropy_kept": 0.0, "labels_min": 1},
    )
    before = bases(bench.ready.store)
    bench.intake.window.add(disagreeing(bench))
    done = bench.teach(misleading(bench, coloured()))
    assert done.outcome == "refused", done.reasons
    assert bases(bench.ready.store) == before
    assert len(bench.ready.store.refused()) == 1
    assert (bench.serving, bench.ready.store.ids()) == (0, [0])


def disagreeing(bench: Bench) -> Sample:
    """A picture, and what zero-shot says of it."""
    pixels = coloured()[0].pixels
    probabilities, weights = bench.learner.zero_shot(pixels[None], 1.0)
    return Sample("window", pixels, probabilities[0], float(weights[0]), ("images.unlabeled", 0, 0))


def misleading(bench: Bench, samples: tuple[LabeledSample, ...]) -> tuple[LabeledSample, ...]:
    """Held out, zero-shot's answers are the truth; to learn from, the classes after them."""
    answers, _ = bench.learner.zero_shot(np.stack([s.pixels for s in samples]), 1.0)
    held_out = bench.intake.labels.is_held_out
    return tuple(
        replace(s, target=int(p.argmax() + (not held_out(s.image_id))) % 3, zero_shot=p)
        for s, p in zip(samples, answers, strict=True)
    )


def test_what_labels_refuse_is_refused_with_the_figures(bench: Bench) -> None:
    tune = {"passes": 40.0, "learning_rate": 0.01, "head_learning_rate": 0.1}
    bench.start(tune=tune, guard={"labels_min": 5})
    done = bench.teach(misleading(bench, coloured(64)))
    assert (done.outcome, done.version) == ("refused", 0)
    assert "worse_accuracy_on_labels" in done.reasons or "worse_nll_on_labels" in done.reasons
    assert done.evidence is not None
    assert done.evidence.metrics["labels_judged_by"] == len(bench.intake.labels.held_out)


@VIT
def test_labels_that_contradict_what_zero_shot_is_sure_of_teach_and_judge_nothing(
    bench: Bench, window: Samples
) -> None:
    """Every label is the class after the one the zero-shot model is sure of."""
    sure = 0.04 + 0.88 * np.eye(3, dtype=np.float32)
    samples = tuple(replace(s, zero_shot=sure[(s.target + 1) % 3]) for s in coloured(64))
    bench.start(guard={"labels_above_chance": 0.1, "labels_min": 5})
    done = bench.teach(samples)
    assert (done.outcome, done.version) == ("skipped", 0)
    assert done.reasons == ("labels_contradict_zero_shot",)
    unlabeled = bench.look(window)
    assert unlabeled.evidence is not None
    assert unlabeled.evidence.labels is None


@VIT
def test_three_refusals_freeze_and_frozen_rounds_are_skipped_and_counted(
    bench: Bench, window: Samples
) -> None:
    bench.start(learn=COLLAPSE, guard={**STRICT, "refusals": 3, "cool_down_rounds": 2})
    found = [bench.look(window) for _ in range(6)]
    assert [done.outcome for done in found] == [*["refused"] * 3, *["skipped"] * 2, "refused"]
    assert [done.action for done in found] == [
        *["continue"] * 2,
        *["freeze"] * 2,
        *["continue"] * 2,
    ]
    assert found[3].reasons == found[4].reasons == ("frozen_after_refusals",)
    assert [done.number for done in found] == [1, 2, 3, 4, 5, 6]
    assert (bench.serving, bench.intake.new_images) == (0, 0)


@VIT
def test_labels_are_learned_while_learning_without_them_is_frozen(bench: Bench) -> None:
    bench.rounds.patience = Patience(cool_down=3)
    assert bench.teach(coloured()).outcome == "promoted"
    assert bench.rounds.patience.frozen


@VIT
def test_further_trouble_goes_back_to_the_parent_and_then_to_zero_shot(
    bench: Bench, window: Samples
) -> None:
    for _ in range(3):
        assert bench.look(window).outcome == "promoted"
    limits = {**STRICT, "refusals": 1, "freezes": 1}
    bench.start(learn=COLLAPSE, guard=limits)
    first = bench.look(window)
    assert (first.outcome, first.action, bench.serving) == ("refused", "reset_to_last_good", 2)
    survived = Patience(**asdict(bench.rounds.patience))
    bench.start(learn=COLLAPSE, guard=limits).patience = survived
    second = bench.look(window)
    assert (second.parent, second.action, bench.serving) == (2, "reset_to_zero_shot", 0)
    assert bench.observer.returns == 2
    assert bench.look(window).parent == 0
    assert (bench.serving, bench.observer.returns) == (0, 2)


@VIT
def test_labels_that_find_the_parent_worse_than_zero_shot_twice_go_back(
    bench: Bench, window: Samples
) -> None:
    """It was promoted while there were no labels; then its answers are all wrong."""
    bench.start(learn={"learning_rate": 0.3, "passes": 10.0})
    assert bench.look(window).outcome == "promoted"
    right = misleading(bench, coloured(64))
    held_out = [s for s in right if bench.intake.labels.is_held_out(s.image_id)]
    for sample in held_out:
        bench.intake.labels.add(sample)
    bench.start(learn=STILL, guard={"labels_min": 5, "cool_down_rounds": 1})
    first, skipped, second = (bench.look(window) for _ in range(3))
    for done in (first, second):
        assert done.outcome == "refused"
        assert done.evidence is not None
        assert done.evidence.parent_is_worse
    assert (first.action, skipped.outcome, second.action) == (
        "freeze",
        "skipped",
        "reset_to_last_good",
    )
    assert bench.serving == 0


@VIT
def test_a_window_of_one_class_is_skipped_with_its_reason(bench: Bench, window: Samples) -> None:
    one_class = np.array([0.98, 0.01, 0.01], np.float32)
    uniform = tuple(replace(sample, zero_shot=one_class) for sample in window)
    bench.start(guard={"window_classes": 1.8})
    done = bench.look(uniform)
    assert (done.outcome, done.reasons, done.version) == ("skipped", ("window_too_uniform",), 0)
    assert (done.evidence, done.action, bench.rounds.count) == (None, "continue", 1)
    assert bench.ready.store.ids() == [0]


@VIT
def test_a_round_that_is_stopped_changes_nothing_and_counts_nothing(bench: Bench) -> None:
    def stop() -> None:
        raise StopRound

    bench.intake.new_labels = 9
    bench.rounds._between_steps = stop
    with pytest.raises(StopRound):
        bench.teach(coloured())
    assert (bench.rounds.count, bench.intake.new_labels, bench.serving) == (0, 9, 0)
    bench.start()
    assert bench.teach(coloured()).outcome == "promoted"


@VIT
@pytest.mark.parametrize("rate", [1e19, 1e38])
def test_a_round_on_labels_that_diverges_fails_and_the_version_stays(
    bench: Bench, rate: float
) -> None:
    bench.start(tune={"learning_rate": rate, "passes": 9.0})
    done = bench.teach(coloured())
    assert (done.outcome, done.version, bench.serving) == ("failed", 0, 0)
    assert bench.rounds.patience.refusals == 1


@VIT
def test_rounds_have_seeds_of_their_own(bench: Bench, window: Samples) -> None:
    for _ in range(2):
        bench.look(window)
    bench.teach(coloured())
    seeds = [bench.ready.store.manifest(version).seed for version in (1, 2, 3)]
    assert len(set(seeds)) == 3


@VIT
def test_while_a_person_holds_what_serves_rounds_are_skipped_and_learning_goes_on_after(
    bench: Bench, window: Samples
) -> None:
    bench.ready.pointer.force(0, hold=True)
    for done in (bench.look(window), bench.teach(coloured())):
        assert (done.outcome, done.reasons) == ("skipped", ("held_by_a_person",))
    assert (bench.serving, bench.ready.store.ids()) == (0, [0])
    bench.ready.pointer.force(0)
    assert bench.look(window).outcome == "promoted"


@VIT
def test_a_hold_that_comes_during_a_round_keeps_its_candidate_from_serving(
    bench: Bench, window: Samples
) -> None:
    def hold() -> None:
        bench.ready.pointer.force(0, hold=True)

    rounds = Rounds(bench.rounds._parts, bench.settings, between_steps=hold)
    for sample in window:
        bench.intake.window.add(sample)
    done = rounds.run("images", bench.intake)
    assert (done.outcome, bench.serving) == ("conflict", 0)
    assert "is held" in done.reasons[0]


@VIT
def test_going_back_passes_over_a_parent_that_was_pruned(bench: Bench, window: Samples) -> None:
    for _ in range(3):
        bench.look(window)
    assert bench.serving == 3
    bench.ready.store.prune(2)
    bench.rounds._go_back(3, to_zero_shot=False)
    assert bench.serving == 1
