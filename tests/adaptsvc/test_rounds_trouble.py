"""What refuses, stops and fails a round, and what repeated trouble leads to."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import Ready
from adaptsvc.config import Settings
from adaptsvc.errors import ModelError, StateUnavailableError
from adaptsvc.rounds import Rounds, StopRound
from adaptsvc.trust.patience import Patience
from tests.adaptsvc.rounds_bench import (
    COLLAPSE,
    LENIENT,
    STILL,
    STRICT,
    TUNE,
    VIT,
    Bench,
    Samples,
    bases,
    changed,
    coloured,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bench(ready: Ready, prepared: Settings) -> Bench:
    return Bench(ready, changed(prepared, guard=LENIENT, tune=TUNE))


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
    tune = {"passes": 10.0, "learning_rate": 0.003, "head_learning_rate": 0.1}
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
    bench.start(guard={"labels_significance": 0.01, "labels_min": 5})
    done = bench.teach(samples)
    assert (done.outcome, done.version) == ("skipped", 0)
    assert done.reasons == ("labels_not_above_chance",)
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
def test_a_window_of_one_class_is_skipped_with_its_reason(
    bench: Bench, window: Samples, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    one_class = np.array([0.98, 0.01, 0.01], np.float32)
    uniform = tuple(replace(sample, zero_shot=one_class) for sample in window)
    bench.start(guard={"window_information": 0.2})
    done = bench.look(uniform)
    assert (done.outcome, done.reasons, done.version) == ("skipped", ("window_uninformative",), 0)
    assert "apart by 0.00; from 0.20 on" in caplog.text
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


@VIT
@pytest.mark.parametrize("kind", ["labels", "images"])
def test_a_version_made_for_other_classes_is_not_learned_from(
    bench: Bench, window: Samples, kind: str
) -> None:
    """The same names in another order: every label would name another row of its head."""
    bench.settings = bench.settings.model_copy(update={"classes": ("dog", "cat", "car")})
    bench.start()
    done = bench.teach(coloured()) if kind == "labels" else bench.look(window)
    assert (done.outcome, done.reasons, done.version) == ("skipped", ("foreign_classes",), 0)


@VIT
def test_going_back_is_tried_again_when_the_pointer_does_not_answer(
    bench: Bench, window: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        bench.look(window)
    bench.start(learn=COLLAPSE, guard={**STRICT, "refusals": 1, "freezes": 1})
    pointer = bench.ready.pointer

    def away(expected: int | None, version: int) -> None:
        raise StateUnavailableError("gone")

    bench.intake.new_images = 7
    with monkeypatch.context() as patch:
        patch.setattr(pointer, "compare_and_set", away)
        with pytest.raises(StateUnavailableError):
            bench.look(window)
    assert (bench.rounds.count, bench.serving) == (0, 2)
    assert bench.intake.new_images == 7
    done = bench.rounds.run("images", bench.intake)
    assert (done.action, done.version, bench.serving) == ("reset_to_last_good", 1, 1)


@VIT
def test_a_model_that_cannot_be_exported_fails_the_round_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("a layer has no counterpart")

    monkeypatch.setattr("adaptsvc.publishing.export_tuned", refuse)
    bench.start(tune={**TUNE, "trained": "last-block"})
    done = bench.teach(coloured())
    assert (done.outcome, done.reasons) == ("failed", ("a layer has no counterpart",))


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
