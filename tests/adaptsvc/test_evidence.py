"""What speaks for and against a candidate: the guard, the labels, the temperature, the threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import Ready
from adaptsvc.config import Settings
from adaptsvc.evidence import (
    JUDGED_LABELS,
    Evidence,
    Examiner,
    RoundContext,
    embed_all,
    guard_limits,
)
from adaptsvc.learner import Candidate
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import logits_of
from adaptsvc.trust import ood
from adaptsvc.trust.calibration import refit_temperature, softmax
from adaptsvc.trust.guard import marginal_entropy
from adaptsvc.types import Float32, Float64
from adaptsvc.versions.manifest import Calibration
from adaptsvc.versions.store import Version

pytestmark = pytest.mark.usefixtures("one_thread")
Samples = tuple[Sample, ...]
Examine = Callable[..., Evidence]
ENOUGH = 10
SCALE = 20.0


@pytest.fixture
def parent(ready: Ready) -> Version:
    return ready.store.load(0)


@pytest.fixture
def equal(parent: Version) -> Candidate:
    """A candidate that is version 0 itself."""
    head = parent.head
    return Candidate("ueo", {}, {}, head.context, head.class_embeddings, {}, 12)


@pytest.fixture
def right(window: Samples) -> tuple[LabeledSample, ...]:
    """Twelve labels: what zero-shot says of the window is the truth."""
    return labeled(window)


@pytest.fixture
def examine(ready: Ready, parent: Version, prepared: Settings) -> Examine:
    """Twelve labels are enough."""

    def run(
        candidate: Candidate,
        samples: Samples,
        labels: tuple[LabeledSample, ...],
        start: Version = parent,
        **guard: Any,
    ) -> Evidence:
        limits = prepared.guard.model_copy(update={"labels_min": ENOUGH, **guard})
        settings = prepared.model_copy(update={"guard": limits})
        context = RoundContext(start, samples, labels, {}, 0)
        examiner = Examiner(ready.store, Runtime(), settings)
        return examiner.examine(candidate, ready.encoder, context)

    return run


def labeled(window: Samples, off: int = 0) -> tuple[LabeledSample, ...]:
    """Labels that are zero-shot's answers, or the classes so many after them."""
    return tuple(
        LabeledSample(
            s.image_id, s.pixels, int(s.zero_shot.argmax() + off) % 3, s.source, s.zero_shot
        )
        for s in window
    )


def rolled(class_embeddings: Float32) -> Float32:
    """Every answer becomes the next class's."""
    return np.roll(class_embeddings, 1, axis=0)


def wrong(candidate: Candidate) -> Candidate:
    return replace(candidate, class_embeddings=rolled(candidate.class_embeddings))


def with_head(version: Version, class_embeddings: Float32) -> Version:
    return replace(version, head=replace(version.head, class_embeddings=class_embeddings))


def at_temperature(version: Version, temperature: float) -> Version:
    calibration = Calibration(temperature=temperature, fitted_on="label-free")
    manifest = version.manifest.model_copy(update={"calibration": calibration})
    return replace(version, manifest=manifest)


def logits(ready: Ready, candidate: Candidate, samples: Any) -> Float64:
    return logits_of(embed_all(ready.encoder, samples), candidate.class_embeddings, SCALE)


def test_a_candidate_equal_to_its_parent_may_serve(
    examine: Examine, equal: Candidate, window: Samples, right: tuple[LabeledSample, ...]
) -> None:
    evidence = examine(equal, window, right)
    assert evidence.reasons == ()
    assert evidence.labels is not None
    assert (evidence.labels.labels, evidence.labels.accuracy_change) == (12, 0.0)
    assert not evidence.parent_is_worse
    assert evidence.verdict.agreement == 1.0


def test_a_candidate_worse_than_its_parent_on_labels_is_refused(
    examine: Examine, equal: Candidate, window: Samples, right: tuple[LabeledSample, ...]
) -> None:
    evidence = examine(wrong(equal), window, right)
    assert "worse_accuracy_on_labels" in evidence.reasons
    assert evidence.labels is not None
    assert evidence.labels.accuracy_change == -1.0
    assert not evidence.parent_is_worse


def test_a_candidate_as_good_as_its_parent_and_worse_than_zero_shot_is_refused(
    examine: Examine,
    equal: Candidate,
    window: Samples,
    right: tuple[LabeledSample, ...],
    parent: Version,
) -> None:
    bad = wrong(equal)
    evidence = examine(bad, window, right, with_head(parent, bad.class_embeddings))
    assert evidence.reasons.count("worse_accuracy_on_labels") == 1
    assert evidence.labels is not None
    assert evidence.labels.accepted
    assert evidence.parent_is_worse


def test_a_candidate_better_than_a_parent_that_is_worse_than_zero_shot_may_serve(
    examine: Examine,
    equal: Candidate,
    window: Samples,
    right: tuple[LabeledSample, ...],
    parent: Version,
) -> None:
    start = with_head(parent, rolled(parent.head.class_embeddings))
    evidence = examine(equal, window, right, start)
    assert evidence.reasons == ()
    assert evidence.parent_is_worse


def test_too_few_labels_decide_nothing(
    examine: Examine,
    equal: Candidate,
    window: Samples,
    right: tuple[LabeledSample, ...],
    parent: Version,
) -> None:
    bad, few = wrong(equal), right[: ENOUGH - 1]
    start = with_head(parent, bad.class_embeddings)
    without = examine(bad, window, (), start)
    evidence = examine(bad, window, few, start)
    assert evidence.reasons == without.reasons
    assert "disagrees_with_zero_shot" in evidence.reasons
    assert evidence.calibration == without.calibration
    assert evidence.ood == without.ood
    assert not evidence.parent_is_worse
    assert evidence.labels is not None
    assert evidence.labels.labels == ENOUGH - 1


def test_one_label_is_examined_without_an_error(
    examine: Examine, equal: Candidate, window: Samples, right: tuple[LabeledSample, ...]
) -> None:
    assert examine(equal, window, right[:1]).reasons == ()


def test_without_labels_the_guard_alone_decides(
    examine: Examine, equal: Candidate, window: Samples
) -> None:
    assert examine(equal, window, ()).reasons == ()
    evidence = examine(wrong(equal), window, ())
    assert "disagrees_with_zero_shot" in evidence.reasons
    assert evidence.labels is None


def test_enough_labels_decide_whether_zero_shot_is_sure_and_wrong(
    examine: Examine, equal: Candidate, window: Samples
) -> None:
    """The truth is what the candidate says: it may disagree, and leave a class that is not there."""
    strict: dict[str, Any] = {"class_kept": 1.0, "agreement": 1.0, "marginal_entropy_kept": 0.0}
    evidence = examine(wrong(equal), window, labeled(window, off=1), **strict)
    assert "disagrees_with_zero_shot" in evidence.verdict.reasons
    assert evidence.reasons == ()


def test_a_collapse_is_refused_whatever_labels_say(
    examine: Examine, equal: Candidate, window: Samples, ready: Ready
) -> None:
    toward = embed_all(ready.encoder, window).mean(axis=0)
    toward /= np.linalg.norm(toward)
    collapsed = replace(equal, class_embeddings=np.stack([toward, -toward, -toward]))
    all_cats = tuple(replace(sample, target=0) for sample in labeled(window))
    assert "marginal_collapsed" in examine(collapsed, window, all_cats).reasons


def test_enough_labels_set_the_temperature_where_it_is_better_on_every_other_one(
    examine: Examine, equal: Candidate, window: Samples, ready: Ready
) -> None:
    labels = (*labeled(window)[:9], *labeled(window, off=1)[9:])
    expected = refit_temperature(
        logits(ready, equal, labels),
        np.array([sample.target for sample in labels]),
        current=1.0,
        held_out=np.arange(12) % 2 == 1,
    )
    found = examine(equal, window, labels).calibration
    assert expected.replaced == (found.fitted_on == "labels")
    assert found.temperature == pytest.approx(expected.temperature, abs=1e-3)


def test_labels_that_are_all_right_sharpen(
    examine: Examine, equal: Candidate, window: Samples, right: tuple[LabeledSample, ...]
) -> None:
    calibration = examine(equal, window, right).calibration
    assert calibration.fitted_on == "labels"
    assert calibration.temperature < 1.0


def test_after_a_round_without_labels_the_windows_mean_confidence_stays(
    examine: Examine, equal: Candidate, window: Samples, parent: Version
) -> None:
    calibration = examine(equal, window, (), at_temperature(parent, 1.7)).calibration
    assert calibration.fitted_on == "label-free"
    assert calibration.temperature == pytest.approx(1.0, abs=1e-3)


def test_after_a_round_on_labels_too_few_to_judge_by_the_temperature_is_the_parents(
    examine: Examine,
    equal: Candidate,
    window: Samples,
    right: tuple[LabeledSample, ...],
    parent: Version,
) -> None:
    candidate = replace(equal, method="core", labels_used=True)
    for labels in ((), right[:3]):
        calibration = examine(candidate, window, labels, at_temperature(parent, 1.7)).calibration
        assert calibration == Calibration(temperature=1.7, fitted_on="inherited")


def test_enough_labels_set_the_threshold_by_their_own_scores(
    examine: Examine,
    equal: Candidate,
    window: Samples,
    right: tuple[LabeledSample, ...],
    ready: Ready,
) -> None:
    by_labels = examine(equal, window[:3], right).ood
    scores = ood.energy(logits(ready, equal, right), SCALE)
    assert by_labels.fitted_on == "labels"
    assert by_labels.threshold == pytest.approx(np.quantile(scores, 0.95), abs=1e-5)
    by_window = examine(equal, window[:3], right[: ENOUGH - 1]).ood
    seen = (*window[:3], *right[: ENOUGH - 1])
    scores = ood.energy(logits(ready, equal, seen), SCALE)
    assert by_window.fitted_on == "window"
    assert by_window.threshold == pytest.approx(np.quantile(scores, 0.95), abs=1e-5)


def test_without_a_window_the_guard_looks_at_the_labeled_images(
    examine: Examine, equal: Candidate, right: tuple[LabeledSample, ...], window: Samples
) -> None:
    alone, beside = examine(equal, (), right), examine(equal, window, right)
    assert alone.reasons == ()
    assert alone.verdict.agreement == 1.0
    expected = beside.verdict.marginal_entropy_nats
    assert alone.verdict.marginal_entropy_nats == pytest.approx(expected, abs=1e-5)


def test_a_window_of_a_few_images_is_judged_together_with_the_labeled_ones(
    ready: Ready,
    examine: Examine,
    equal: Candidate,
    right: tuple[LabeledSample, ...],
    window: Samples,
) -> None:
    """Alone, one image has no marginal: it would be its own answer, which good tuning makes surer."""
    seen = (*window[:1], *right[1:])
    expected = marginal_entropy(softmax(logits(ready, equal, seen)))
    found = examine(equal, window[:1], right[1:]).verdict.marginal_entropy_nats
    assert found == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(marginal_entropy(softmax(logits(ready, equal, seen[:1]))))


def test_only_the_last_labels_judge(
    examine: Examine, equal: Candidate, window: Samples, right: tuple[LabeledSample, ...]
) -> None:
    many = (*labeled(window, off=1) * 4, *right * (JUDGED_LABELS // 12 + 1))
    evidence = examine(wrong(equal), window, many)
    assert evidence.labels is not None
    assert evidence.labels.labels == JUDGED_LABELS
    assert evidence.labels.accuracy_change == -1.0


def test_the_figures_tell_of_labels_only_when_there_were_any(
    examine: Examine, equal: Candidate, window: Samples, right: tuple[LabeledSample, ...]
) -> None:
    without, beside = examine(equal, window, ()).metrics, examine(equal, window, right).metrics
    assert set(without) == {
        "guard_marginal_entropy_nats",
        "guard_agreement",
        "accuracy_estimate",
        "gain_over_zero_shot_estimate",
        "gain_over_zero_shot_bound",
    }
    assert set(beside) - set(without) == {
        "labels_judged_by",
        "accuracy_change_on_labels",
        "nll_change_on_labels",
        "gain_over_zero_shot_on_labels",
    }
    assert (beside["labels_judged_by"], beside["accuracy_change_on_labels"]) == (12.0, 0.0)
    assert beside["nll_change_on_labels"] == pytest.approx(0.0, abs=1e-6)


def test_the_gain_is_over_the_zero_shot_model_and_not_over_the_parent(
    examine: Examine,
    equal: Candidate,
    window: Samples,
    right: tuple[LabeledSample, ...],
    parent: Version,
) -> None:
    bad = wrong(equal)
    start = with_head(parent, bad.class_embeddings)
    figures = examine(bad, window, right, start).metrics
    assert figures["accuracy_change_on_labels"] == 0.0
    assert figures["gain_over_zero_shot_on_labels"] == -1.0
    assert examine(equal, window, right, start).metrics["gain_over_zero_shot_on_labels"] == 0.0


def test_without_labels_the_gain_is_estimated_within_what_the_choices_moved(
    examine: Examine, equal: Candidate, window: Samples
) -> None:
    same, moved = examine(equal, window, ()).metrics, examine(wrong(equal), window, ()).metrics
    assert same["gain_over_zero_shot_estimate"] == pytest.approx(0.0, abs=1e-6)
    assert same["gain_over_zero_shot_bound"] == 0.0
    assert moved["gain_over_zero_shot_bound"] == 1.0


def test_the_reliability_is_of_the_labels_that_no_temperature_was_fitted_on(
    examine: Examine, equal: Candidate, window: Samples, ready: Ready
) -> None:
    labels = (*labeled(window)[:9], *labeled(window, off=1)[9:])
    calibration = examine(equal, window, labels).calibration
    p = softmax(logits(ready, equal, labels), calibration.temperature)[1::2]
    targets = np.array([sample.target for sample in labels])[1::2]
    bins = calibration.reliability
    assert sum(each.images for each in bins) == 6
    right = sum(each.images * each.accuracy for each in bins)
    assert right == pytest.approx((p.argmax(axis=-1) == targets).sum())
    sure = sum(each.images * each.confidence for each in bins)
    assert sure == pytest.approx(p.max(axis=-1).sum(), abs=1e-3)


def test_too_few_labels_show_no_reliability(
    examine: Examine, equal: Candidate, window: Samples, right: tuple[LabeledSample, ...]
) -> None:
    for labels in ((), right[: ENOUGH - 1]):
        assert examine(equal, window, labels).calibration.reliability == ()


def test_the_limits_are_the_settings(prepared: Settings) -> None:
    changes = {"agreement": 0.11, "class_kept": 0.22, "labels_min": 33, "window_information": 0.44}
    limits = guard_limits(prepared.guard.model_copy(update=changes))
    assert (limits.agreement, limits.swallowed_kept) == (0.11, 0.22)
    assert (limits.minimum_labels, limits.window_information) == (33, 0.44)


def test_labels_calibrate_the_zero_shot_model_that_the_estimate_is_held_to(
    examine: Examine, equal: Candidate, window: Samples, right: tuple[LabeledSample, ...]
) -> None:
    without, with_labels = examine(equal, window, ()), examine(equal, window, right)
    assert without.estimate.accuracy < 0.8
    assert with_labels.estimate.accuracy > 0.95, "zero-shot is right on every label"
