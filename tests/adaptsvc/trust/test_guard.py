"""The guard: each reason is given exactly when it should be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptsvc.trust.guard import (
    GuardLimits,
    chance_of_labels,
    confident_agreement,
    judge,
    judge_labels,
    judge_on_labels,
    judge_window,
    marginal_entropy,
    window_information,
)
from adaptsvc.types import Float64

LIMITS = GuardLimits(marginal_entropy_kept=0.8, agreement=0.75, confident_share=0.5)
LENIENT = GuardLimits(marginal_entropy_kept=0.0, agreement=0.0, confident_share=1.0)
CLASSES = 4


def answers(chosen: Sequence[int], confidence: float | Sequence[float] = 0.9) -> Float64:
    """Probabilities (N, 4) that choose these classes with that confidence."""
    sure = np.broadcast_to(np.asarray(confidence, np.float64), len(chosen))
    rows = np.repeat((1 - sure[:, None]) / (CLASSES - 1), CLASSES, axis=1)
    rows[np.arange(len(chosen)), list(chosen)] = sure
    return rows


# The first four are the half the zero-shot model is surest of.
ZERO_SHOT = answers([0, 1, 2, 3, 0, 1, 2, 3], [0.9] * 4 + [0.6] * 4)


def test_the_zero_shot_model_itself_is_accepted() -> None:
    verdict = judge(ZERO_SHOT, ZERO_SHOT, LIMITS)
    assert verdict.accepted
    assert verdict.reasons == ()
    assert verdict.agreement == 1
    assert verdict.marginal_entropy_nats == pytest.approx(math.log(CLASSES))


def test_a_candidate_may_change_its_mind_where_the_zero_shot_model_is_unsure() -> None:
    verdict = judge(answers([0, 1, 2, 3, 1, 2, 3, 0]), ZERO_SHOT, LIMITS)
    assert verdict.accepted
    assert verdict.agreement == 1


@pytest.mark.parametrize(("changed", "accepted"), [(0, True), (1, True), (2, False)])
def test_disagreement_is_refused_below_the_limit_and_not_at_it(
    changed: int, accepted: bool
) -> None:
    """Of 4 confident images, 1 changed is an agreement of 0.75, exactly the limit."""
    first = {0: [0, 1, 2, 3], 1: [1, 1, 2, 3], 2: [1, 0, 2, 3]}[changed]
    verdict = judge(answers([*first, 0, 1, 2, 3]), ZERO_SHOT, LIMITS)
    assert verdict.agreement == 1 - changed / 4
    assert verdict.accepted is accepted
    assert verdict.reasons == (() if accepted else ("disagrees_with_zero_shot",))


@pytest.mark.parametrize(("kept", "accepted"), [(0.49, True), (0.51, False)])
def test_a_collapsed_marginal_is_refused_below_the_share_kept(kept: float, accepted: bool) -> None:
    """Two of four classes, surely: log 2 of log 4, a share of one half."""
    limits = GuardLimits(marginal_entropy_kept=kept, agreement=0.0, confident_share=1.0)
    verdict = judge(answers([0, 1] * 4, 1.0), ZERO_SHOT, limits)
    assert verdict.marginal_entropy_nats == pytest.approx(math.log(2))
    assert verdict.accepted is accepted
    assert verdict.reasons == (() if accepted else ("marginal_collapsed",))


def test_a_candidate_that_answers_one_class_only_is_refused_for_both_reasons() -> None:
    verdict = judge(answers([0] * 8, 1.0), ZERO_SHOT, LIMITS)
    assert verdict.reasons == ("marginal_collapsed", "disagrees_with_zero_shot")
    assert verdict.marginal_entropy_nats == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_candidate_that_is_not_finite_is_refused_whatever_the_limits(value: float) -> None:
    candidate = ZERO_SHOT.copy()
    candidate[3, 2] = value
    verdict = judge(candidate, ZERO_SHOT, LENIENT)
    assert not verdict.accepted
    assert verdict.reasons == ("not_finite",)
    assert math.isfinite(verdict.agreement + verdict.marginal_entropy_nats)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31))
def test_order_of_images_and_names_of_classes_do_not_matter(seed: int) -> None:
    chance = np.random.default_rng(seed)
    candidate, zero_shot = chance.dirichlet(np.ones(CLASSES), (2, 12))
    images, classes = chance.permutation(12), chance.permutation(CLASSES)
    shuffled = judge(candidate[images][:, classes], zero_shot[images][:, classes], LIMITS)
    expected = judge(candidate, zero_shot, LIMITS)
    assert shuffled.reasons == expected.reasons
    assert shuffled.agreement == expected.agreement


@pytest.mark.parametrize(
    ("candidate", "zero_shot"), [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (0, 3))]
)
def test_no_images_or_shapes_that_differ_are_refused(
    candidate: tuple[int, ...], zero_shot: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C\) twice"):
        judge(np.ones(candidate), np.ones(zero_shot), LIMITS)


def test_marginal_entropy_has_the_value_computed_by_hand() -> None:
    """The mean of (1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 0) is (1/2, 1/2, 0)."""
    assert marginal_entropy(np.eye(3)[[0, 0, 1, 1]]) == pytest.approx(math.log(2))
    assert marginal_entropy(np.eye(3)) == pytest.approx(math.log(3))


@pytest.mark.parametrize(("share", "expected"), [(0.25, 1.0), (0.5, 0.5), (1.0, 0.75), (0.01, 1.0)])
def test_agreement_counts_the_surest_share_and_one_image_at_least(
    share: float, expected: float
) -> None:
    zero_shot = answers([0, 1, 2, 3], [0.6, 0.8, 0.9, 0.5])  # surest first: 2, 1, 0, 3
    candidate = answers([0, 0, 2, 3])
    assert confident_agreement(candidate, zero_shot, share) == expected


def of_counts(*counts: int) -> Float64:
    """Answers that choose class k so many times."""
    return answers([k for k, count in enumerate(counts) for _ in range(count)])


@pytest.mark.parametrize(("left", "swallowed"), [(0, True), (1, True), (2, False)])
def test_a_class_is_swallowed_when_under_a_tenth_of_its_images_are_left(
    left: int, swallowed: bool
) -> None:
    zero_shot, candidate = of_counts(40, 20, 20, 20), of_counts(60 - left, left, 20, 20)
    verdict = judge(candidate, zero_shot, LENIENT)
    assert verdict.reasons == (("class_swallowed",) if swallowed else ())
    assert verdict.swallowed == ((1,) if swallowed else ())


def test_a_class_may_go_where_others_take_its_place() -> None:
    """What counts is how often the candidate chooses the class, not on which images."""
    zero_shot = of_counts(20, 20, 20, 20)
    assert judge(zero_shot[::-1], zero_shot, LENIENT).accepted


@pytest.mark.parametrize(("rare", "images"), [(7, 80), (9, 400)])
def test_a_rare_class_may_vanish(rare: int, images: int) -> None:
    """7 images are too few, and so are 9 of 400, under 5 %."""
    zero_shot, candidate = of_counts(images - rare, rare), of_counts(images)
    assert judge(candidate, zero_shot, LENIENT).accepted


def labeled(seed: int, images: int, signal: float) -> tuple[Float64, Float64]:
    """Logits (N, 4) that find the label with some signal, and the labels."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, CLASSES, images)
    logits = chance.standard_normal((images, CLASSES)) + signal * np.eye(CLASSES)[labels]
    return logits, labels.astype(np.float64)


def test_the_parent_itself_is_as_good_as_its_parent() -> None:
    logits, labels = labeled(0, 100, 2.0)
    verdict = judge_on_labels(logits, logits, labels=labels, limits=LIMITS)
    assert verdict.accepted
    assert (verdict.labels, verdict.accuracy_change, verdict.nll_change) == (100, 0, 0)


def test_a_candidate_that_unlearned_is_refused_and_one_that_learned_is_not() -> None:
    parent, labels = labeled(0, 100, 2.0)
    worse = parent - 1.5 * np.eye(CLASSES)[labels.astype(int)]
    refused = judge_on_labels(worse, parent, labels=labels, limits=LIMITS)
    assert refused.reasons == ("worse_accuracy_on_labels", "worse_nll_on_labels")
    assert refused.accuracy_change < 0 < refused.nll_change
    assert judge_on_labels(parent, worse, labels=labels, limits=LIMITS).accepted


def test_a_candidate_that_only_became_far_too_sure_is_refused_for_its_nll() -> None:
    parent, labels = labeled(0, 200, 1.0)
    verdict = judge_on_labels(10 * parent, parent, labels=labels, limits=LIMITS)
    assert verdict.reasons == ("worse_nll_on_labels",)
    assert verdict.accuracy_change == 0


@pytest.mark.parametrize(("images", "accepted"), [(29, True), (30, False)])
def test_fewer_labels_than_the_minimum_decide_nothing(images: int, accepted: bool) -> None:
    parent, labels = labeled(0, images, 4.0)
    verdict = judge_on_labels(-parent, parent, labels=labels, limits=LIMITS)
    assert verdict.accepted is accepted
    assert verdict.accuracy_change < -0.5


def test_a_candidate_that_is_not_finite_is_refused_with_any_number_of_labels() -> None:
    verdict = judge_on_labels(
        np.array([[math.nan, 0.0]]), np.zeros((1, 2)), labels=np.array([0.0]), limits=LIMITS
    )
    assert verdict.reasons == ("not_finite",)


@pytest.mark.parametrize(("candidate", "labels"), [((2, 4), 3), ((3, 4), 2), ((3, 5), 3)])
def test_labels_and_answers_of_other_shapes_are_refused(
    candidate: tuple[int, int], labels: int
) -> None:
    with pytest.raises(ValueError, match="expected"):
        judge_on_labels(np.ones(candidate), np.ones((3, 4)), labels=np.ones(labels), limits=LIMITS)


def test_equal_candidates_are_refused_no_more_often_than_the_intervals_say() -> None:
    """Of 300 candidates as good as their parents each rule may refuse 2.5 %, give or take."""
    refused: list[str] = []
    for seed in range(300):
        base, labels = labeled(seed, 60, 2.0)
        noise = np.random.default_rng(seed + 1000).standard_normal((2, *base.shape)) / 2
        verdict = judge_on_labels(base + noise[0], base + noise[1], labels=labels, limits=LIMITS)
        refused += verdict.reasons
    assert refused.count("worse_accuracy_on_labels") <= 15
    assert refused.count("worse_nll_on_labels") <= 15


@pytest.mark.parametrize(("share", "skipped"), [(0.5, False), (0.8, False), (0.95, True)])
def test_a_window_of_nearly_one_class_is_not_learned_from(share: float, skipped: bool) -> None:
    first = round(share * 200)
    rest = (200 - first) // 2
    reasons = judge_window(of_counts(first, rest, 200 - first - rest), LIMITS)
    assert reasons == (("window_uninformative",) if skipped else ())


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (np.array([[0.9, 0.1], [0.1, 0.9]]), 1 - 0.4689956),  # capacity of that binary channel
        (np.eye(10)[[0, 1] * 50], math.log10(2)),
        (np.eye(4), 1),
        (np.full((9, 4), 0.25), 0),
        (np.tile([0.97, 0.01, 0.01, 0.01], (9, 1)), 0),
        (np.ones((3, 1)), 0),
    ],
    ids=["9 in 10 sure", "2 of 10", "all", "of none", "one class", "one to choose from"],
)
def test_what_a_window_tells(window: Float64, expected: float) -> None:
    assert window_information(window) == pytest.approx(expected, abs=1e-6)


def test_a_window_is_learned_from_at_the_limit_and_not_below_it() -> None:
    window = np.array([[0.9, 0.1], [0.1, 0.9]])
    told = window_information(window)
    assert judge_window(window, replace(LIMITS, window_information=told)) == ()
    above = replace(LIMITS, window_information=told + 1e-9)
    assert judge_window(window, above) == ("window_uninformative",)


def test_one_class_that_is_often_taken_for_another_is_seen_as_one() -> None:
    """Seven of ten say 0.7 of the first class, three say 0.4 of it."""
    window = np.array([[0.7, 0.3]] * 7 + [[0.4, 0.6]] * 3)
    assert judge_window(window, LIMITS) == ("window_uninformative",)


@pytest.mark.parametrize("sure", [4, 50])
def test_a_window_in_which_few_images_are_known_is_not_learned_from(sure: int) -> None:
    """Of 100, at confidences 0.3 (nearly flat over 4 classes) and 0.9."""
    window = answers([0, 1, 2, 3] * 25, [0.9] * sure + [0.3] * (100 - sure))
    assert judge_window(window, LIMITS) == (("window_uninformative",) if sure == 4 else ())


@given(seed=st.integers(0, 2**31), classes=st.integers(2, 20), images=st.integers(1, 50))
def test_what_a_window_tells_is_a_share_and_does_not_grow_by_blurring(
    seed: int, classes: int, images: int
) -> None:
    window = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), images)
    told = window_information(window)
    assert 0 <= told <= 1
    assert window_information((window + window.mean(axis=0)) / 2) <= told + 1e-12


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(3, 50),
    images=st.integers(32, 300),
    sharpness=st.floats(0.05, 0.2),
)
def test_ordinary_windows_and_small_changes_are_never_refused(
    seed: int, classes: int, images: int, sharpness: float
) -> None:
    chance = np.random.default_rng(seed)
    zero_shot = chance.dirichlet(np.full(classes, sharpness), images) + 1e-12
    candidate = zero_shot**1.3 * np.exp(0.2 * chance.standard_normal(zero_shot.shape))
    candidate /= candidate.sum(axis=-1, keepdims=True)
    assert judge_window(zero_shot, LIMITS) == ()
    assert "class_swallowed" not in judge(candidate, zero_shot, LENIENT).reasons


def test_a_window_of_one_image_tells_nothing_and_one_not_finite_says_so() -> None:
    assert judge_window(answers([2]), LIMITS) == ("window_uninformative",)
    assert judge_window(np.array([[math.nan, 0.5]]), LIMITS) == ("not_finite",)


@pytest.mark.parametrize("shape", [(0, 3), (3,)])
def test_a_window_without_images_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C\), N >= 1"):
        judge_window(np.ones(shape), LIMITS)


def sure_of(classes: list[int], count: int = 3) -> Float64:
    """Zero-shot answers that are sure of these classes."""
    return np.full((len(classes), count), 0.05) + 0.85 * np.eye(count)[classes]


def test_labels_that_say_what_zero_shot_is_sure_of_are_believed() -> None:
    classes = [0, 1, 2] * 20
    assert judge_labels(sure_of(classes), np.array(classes), LIMITS) == ()


def test_labels_in_another_order_of_the_classes_are_not_believed() -> None:
    classes = [0, 1, 2] * 20
    turned = (np.array(classes) + 1) % 3
    assert judge_labels(sure_of(classes), turned, LIMITS) == ("labels_not_above_chance",)


@pytest.mark.parametrize("labels", [[1], [0, 1], [2, 2, 2, 2, 2, 2, 2, 2]])
def test_labels_that_are_few_or_of_one_class_prove_nothing_yet(labels: list[int]) -> None:
    assert judge_labels(sure_of(labels), np.array(labels), LIMITS) == ("labels_not_above_chance",)


def poor(images: int, seed: int) -> tuple[Float64, np.typing.NDArray[np.int64]]:
    """A zero-shot model of seven classes that is right on 3 of 10, and the truth."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 7, images)
    guess = np.where(generator.random(images) < 0.2, truth, generator.integers(0, 7, images))
    return sure_of(guess.tolist(), 7), truth


def test_a_poor_zero_shot_model_believes_true_labels_when_they_are_enough() -> None:
    believed = {
        images: sum(judge_labels(*poor(images, seed), LIMITS) == () for seed in range(20))
        for images in (8, 256)
    }
    assert believed[8] <= 4
    assert believed[256] == 20


def test_labels_of_other_images_are_believed_no_more_often_than_is_asked() -> None:
    generator = np.random.default_rng(1)
    judged = [
        judge_labels(poor(64, seed)[0], generator.integers(0, 7, 64), limits_at(0.05)) == ()
        for seed in range(200)
    ]
    assert 1 <= sum(judged) <= 20  # 10 are expected; more than 20 come once in a thousand


def test_what_the_model_holds_most_likely_everywhere_does_not_count_for_labels() -> None:
    """It says 0 of every image, and most labels are 0: they agree and tell nothing."""
    labels = np.array([0] * 90 + [1, 2] * 5)
    assert judge_labels(sure_of([0] * 100), labels, LIMITS) == ("labels_not_above_chance",)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 1, 2, 0, 2], [2, 1, 1, 0, 0, 0]])
def test_the_chance_of_a_few_labels_is_the_share_of_their_orders_that_fit_as_well(
    labels: list[int],
) -> None:
    zero_shot = np.random.default_rng(5).dirichlet(np.ones(3), len(labels))
    images = np.arange(len(labels))
    fits = [np.log(zero_shot[images, list(o)]).sum() for o in permutations(labels)]
    expected = np.mean(np.array(fits) >= fits[0] - 1e-9)
    assert chance_of_labels(zero_shot, np.array(labels)) == pytest.approx(expected)


def test_a_probability_of_zero_makes_a_label_unlikely_and_not_impossible() -> None:
    classes = [0, 1, 2] * 20
    zero_shot = np.eye(3)[classes]
    mistaken = np.array([*classes[:-1], 0])
    assert judge_labels(zero_shot, mistaken, LIMITS) == ()


def test_any_labels_are_believed_where_nothing_is_asked_of_them() -> None:
    assert judge_labels(sure_of([0] * 60), np.ones(60, int), limits_at(1.0)) == ()


def limits_at(significance: float) -> GuardLimits:
    """Labels believed at this level."""
    return replace(LIMITS, labels_significance=significance)
