"""Whether a candidate may serve, and whether a window may be learned from; numpy only.

It knows nothing of models, versions or streams. An unlabeled objective can fail silently, so a candidate
must stay near what the frozen zero-shot model is sure of, must not pour all images into a few classes nor
empty one, and must not be worse on the labels there are.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import permutation_test

from adaptsvc.trust.calibration import image_nll
from adaptsvc.trust.checks import Labels, checked_labels
from adaptsvc.trust.paired import mean_difference, share_of_losses
from adaptsvc.types import Float64

PERMUTATIONS, PERMUTATIONS_AT_ONCE = 9999, 256
SEED = 0  # of the permutations: the same labels are always judged alike

Reason: TypeAlias = Literal[
    "not_finite",
    "marginal_collapsed",
    "disagrees_with_zero_shot",
    "class_swallowed",
    "worse_accuracy_on_labels",
    "worse_nll_on_labels",
    "window_uninformative",
    "labels_not_above_chance",
]


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """What a candidate must keep, and a window must have.

    Attributes:
        marginal_entropy_kept: marginal entropy of its predictions, as a share of the zero-shot model's.
        agreement: share of the confident images on which both choose the same class, in [0, 1].
        confident_share: how many of the window's surest zero-shot answers count as confident, in (0, 1].
        swallowed_from_share: a class is watched when zero-shot chooses it for this share, in [0, 1],
        swallowed_from_images: and for this many images.
        swallowed_kept: a watched class is swallowed when fewer than this share of its images are left.
        minimum_labels: with fewer, labels decide nothing.
        label_confidence: of the paired intervals, in (0, 1); at 0.95 a rule refuses 1 equal in 40.
        labels_significance: labels are believed when at most this share of random orders of them fits the
            zero-shot model as well, in (0, 1]; 1 believes any.
        window_information: how far zero-shot must tell a window's images apart, in [0, 1]; see the function.
    """

    marginal_entropy_kept: float
    agreement: float
    confident_share: float
    _: KW_ONLY
    swallowed_from_share: float = 0.05
    swallowed_from_images: int = 8
    swallowed_kept: float = 0.1
    minimum_labels: int = 30
    label_confidence: float = 0.95
    labels_significance: float = 0.01
    window_information: float = 0.23


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard found.

    Attributes:
        reasons: why it is refused; empty when it may serve.
        marginal_entropy_nats: of the candidate's mean prediction.
        agreement: with the zero-shot model where that one is confident, in [0, 1].
        swallowed: indices of the classes it no longer chooses.
    """

    reasons: tuple[Reason, ...]
    marginal_entropy_nats: float
    agreement: float
    swallowed: tuple[int, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the candidate may serve."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class LabelVerdict:
    """What the labels say of a candidate.

    Attributes:
        reasons: why it is refused; empty when it may serve, or when there are too few labels.
        labels: how many there were.
        accuracy_change: candidate less parent, in [-1, 1].
        nll_change: the same, in nats; above 0 is worse.
    """

    reasons: tuple[Reason, ...]
    labels: int
    accuracy_change: float
    nll_change: float

    @property
    def accepted(self) -> bool:
        """Whether the labels let the candidate serve."""
        return not self.reasons


def judge(candidate: Float64, zero_shot: Float64, limits: GuardLimits) -> Verdict:
    """Hold a candidate's probabilities against the frozen zero-shot model's, on the same images.

    Args:
        candidate: (N, C) probabilities.
        zero_shot: (N, C) probabilities.
        limits: what must be kept.

    Raises:
        ValueError: no images, or shapes that differ.
    """
    if candidate.shape != zero_shot.shape or candidate.ndim != 2 or len(candidate) == 0:
        raise ValueError(
            f"got candidate {candidate.shape} and zero-shot {zero_shot.shape}; expected (N, C) twice"
        )
    if not (np.isfinite(candidate).all() and np.isfinite(zero_shot).all()):
        return Verdict(("not_finite",), 0.0, 0.0)
    spread = marginal_entropy(candidate)
    agreement = confident_agreement(candidate, zero_shot, limits.confident_share)
    swallowed = swallowed_classes(candidate, zero_shot, limits)
    reasons: list[Reason] = []
    if spread < limits.marginal_entropy_kept * marginal_entropy(zero_shot):
        reasons.append("marginal_collapsed")
    if agreement < limits.agreement:
        reasons.append("disagrees_with_zero_shot")
    if swallowed:
        reasons.append("class_swallowed")
    return Verdict(tuple(reasons), spread, agreement, swallowed)


def judge_on_labels(
    candidate: Float64, parent: Float64, *, labels: Labels, limits: GuardLimits
) -> LabelVerdict:
    """Hold a candidate against its parent on labeled images; `adaptsvc.trust.paired` has the two tests.

    Args:
        candidate: (N, C) logits, already divided by its temperature.
        parent: (N, C) logits on the same images, already divided by its own.
        labels: (N,) in 0..C-1; of images the candidate did not learn from.
        limits: minimum_labels and label_confidence.

    Raises:
        ValueError: no images, shapes that do not fit, a label outside 0..C-1, or a parent that is not finite.
    """
    parent, chosen = checked_labels(parent, labels)
    if candidate.shape != parent.shape:
        raise ValueError(
            f"got candidate {candidate.shape} and parent {parent.shape}; expected (N, C) twice"
        )
    if not np.isfinite(candidate).all():
        return LabelVerdict(("not_finite",), len(chosen), 0.0, 0.0)
    before, now = ((z.argmax(axis=-1) == chosen).astype(np.float64) for z in (parent, candidate))
    losses = share_of_losses(before, now, confidence=limits.label_confidence)
    nll = mean_difference(
        image_nll(parent, chosen), image_nll(candidate, chosen), confidence=limits.label_confidence
    )
    enough = len(chosen) >= limits.minimum_labels
    reasons: list[Reason] = []
    if enough and losses.low > 0.5:
        reasons.append("worse_accuracy_on_labels")
    if enough and nll.low > 0:
        reasons.append("worse_nll_on_labels")
    return LabelVerdict(tuple(reasons), len(chosen), float(now.mean() - before.mean()), nll.mean)


def judge_window(zero_shot: Float64, limits: GuardLimits) -> tuple[Reason, ...]:
    """Why a window should not be learned from, before any step; empty when it may be.

    Minimising entropy while the marginal stays spread means raising `window_information` from where the
    zero-shot model has it. With nothing to begin from, what is raised is chance: a stream of one class is
    pulled apart, and images of no class at all are made sure of one.

    Args:
        zero_shot: (N, C) probabilities of the frozen zero-shot model.
        limits: window_information.

    Raises:
        ValueError: no images, or not (N, C).
    """
    if zero_shot.ndim != 2 or zero_shot.size == 0:
        raise ValueError(f"got zero-shot {zero_shot.shape}; expected (N, C), N >= 1")
    if not np.isfinite(zero_shot).all():
        return ("not_finite",)
    informative = window_information(zero_shot) >= limits.window_information
    return () if informative else ("window_uninformative",)


def judge_labels(zero_shot: Float64, labels: Labels, limits: GuardLimits) -> tuple[Reason, ...]:
    """Why labels should not be believed; empty when they may be.

    However poor the zero-shot model is, it holds true labels likelier than the same labels dealt to the same
    images at random. Labels that it does not were given for other images, in another order of the classes, or
    by somebody who means harm; or there are too few yet to tell, as always when all are of one class.

    Args:
        zero_shot: (N, C) probabilities of the frozen zero-shot model.
        labels: (N,) in 0..C-1.
        limits: labels_significance.

    Raises:
        ValueError: no images, shapes that do not fit, or a label outside 0..C-1.
    """
    zero_shot, chosen = checked_labels(zero_shot, labels)
    believed = chance_of_labels(zero_shot, chosen) <= limits.labels_significance
    return () if believed else ("labels_not_above_chance",)


def chance_of_labels(zero_shot: Float64, labels: npt.NDArray[np.int64]) -> float:
    """How probable labels (N,) this likely by (N, C) probabilities are in random order; in (0, 1].

    The p-value of the one-sided permutation test of their log-likelihood: exact for up to 7 labels, by
    `PERMUTATIONS` random orders for more.

    Reference: Phipson & Smyth, "Permutation P-values Should Never Be Zero", SAGMB 2010.
    """
    if len(labels) == 1:
        return 1.0
    log_likelihood = np.log(np.maximum(zero_shot, np.finfo(np.float32).tiny))
    images = np.arange(len(labels))

    def fit(ordered: npt.NDArray[np.int64], axis: int) -> Float64:
        fitted: Float64 = log_likelihood[images, ordered].sum(axis=axis)
        return fitted

    found = permutation_test(
        (labels,),
        fit,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=PERMUTATIONS_AT_ONCE,
        alternative="greater",
        rng=SEED,
    )
    return float(found.pvalue)


def marginal_entropy(probabilities: Float64) -> float:
    """Entropy in nats of the mean of (N, C) probabilities, in [0, log C]."""
    return float(_entropy(probabilities.mean(axis=0)))


def confident_agreement(candidate: Float64, zero_shot: Float64, share: float) -> float:
    """Share of equal choices among the images the zero-shot model is surest of."""
    count = max(1, round(share * len(zero_shot)))
    surest = np.argsort(-zero_shot.max(axis=-1), kind="stable")[:count]
    return float((candidate[surest].argmax(-1) == zero_shot[surest].argmax(-1)).mean())


def swallowed_classes(
    candidate: Float64, zero_shot: Float64, limits: GuardLimits
) -> tuple[int, ...]:
    """Classes that zero-shot chooses for a noticeable share of (N, C), and the candidate for almost none."""
    images, classes = zero_shot.shape
    before = np.bincount(zero_shot.argmax(axis=-1), minlength=classes)
    now = np.bincount(candidate.argmax(axis=-1), minlength=classes)
    needed = max(limits.swallowed_from_share * images, limits.swallowed_from_images)
    return tuple(
        np.flatnonzero((before >= needed) & (now < limits.swallowed_kept * before)).tolist()
    )


def window_information(probabilities: Float64) -> float:
    """Mutual information of image and class by (N, C) probabilities, as a share of log C; in [0, 1].

    What the answers tell of each image beyond what they tell of all of them: 1 when they are certain and
    spread evenly over the classes, 0 when every image is answered alike, be it with one class or with none.
    With one class to choose from it is 0.

    Reference: Bridle, Heading & MacKay, "Unsupervised Classifiers, Mutual Information and 'Phantom
    Targets'", NeurIPS 1991.

    Example:
        >>> round(window_information(np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])), 9)
        0.5
    """
    if (classes := probabilities.shape[1]) == 1:
        return 0.0
    conditional = float(_entropy(probabilities).mean())
    return max(0.0, marginal_entropy(probabilities) - conditional) / math.log(classes)


def _entropy(probabilities: Float64) -> Float64:
    """In nats, over the last axis."""
    p = np.where(probabilities > 0, probabilities, 1.0)
    entropy: Float64 = -(p * np.log(p)).sum(axis=-1)
    return entropy
