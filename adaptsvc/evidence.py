"""What is found out about a candidate before it may serve: guard, labels, temperature, threshold, estimate.

It knows nothing of streams, of how the candidate was learned, or of what becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.window import Sample
from adaptsvc.config import Settings
from adaptsvc.learner import Candidate
from adaptsvc.sections import GuardSettings
from adaptsvc.serving.encoder import Encoder, Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.serving.predictor import logits_of
from adaptsvc.tracing import current
from adaptsvc.trust import ood
from adaptsvc.trust.calibration import (
    fit_temperature,
    refit_temperature,
    reliability,
    softening_temperature,
    softmax,
)
from adaptsvc.trust.estimate import AccuracyEstimate, estimate_accuracy
from adaptsvc.trust.guard import (
    GuardLimits,
    LabelVerdict,
    Reason,
    Verdict,
    judge,
    judge_on_labels,
)
from adaptsvc.types import Float32, Float64, UInt8
from adaptsvc.versions.manifest import Calibration, OodRule, ReliabilityBin
from adaptsvc.versions.store import Store, Version

Targets: TypeAlias = npt.NDArray[np.int64]
EMBED_BATCH = 32
JUDGED_LABELS = 256  # the most recent ones: each costs three forward passes a round
# What labels themselves decide better, once there are enough: zero-shot may be sure and wrong.
LEFT_TO_LABELS: frozenset[Reason] = frozenset({"disagrees_with_zero_shot", "class_swallowed"})


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What a round is known by: from where, on what, with which draws.

    Attributes:
        parent: the version it starts from.
        samples: the window; may be empty for a round on labels.
        labels: held-out labeled images, none of them learned from.
        offsets: of the stream, when it started.
        seed: of its draws.
        record: what it was made of, for the store; may be empty.
    """

    parent: Version
    samples: Sequence[Sample]
    labels: Sequence[LabeledSample]
    offsets: dict[str, int]
    seed: int
    record: bytes = b""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found.

    Attributes:
        reasons: why the candidate is refused; empty when it may serve.
        verdict: of the guard, on the window.
        labels: of the guard, on held-out labels; None without any.
        parent_is_worse: whether labels say that the parent is worse than the zero-shot model.
        calibration: of the candidate.
        ood: of the candidate.
        estimate: of its accuracy, without labels.
        gain_on_labels: its accuracy less the zero-shot model's, on held-out labels; None without any.
    """

    reasons: tuple[Reason, ...]
    verdict: Verdict
    labels: LabelVerdict | None
    parent_is_worse: bool
    calibration: Calibration
    ood: OodRule
    estimate: AccuracyEstimate
    gain_on_labels: float | None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures, by the names they have in the manifest."""
        figures = {
            "guard_marginal_entropy_nats": self.verdict.marginal_entropy_nats,
            "guard_agreement": self.verdict.agreement,
            "accuracy_estimate": self.estimate.accuracy,
            "gain_over_zero_shot_estimate": self.estimate.gain,
            "gain_over_zero_shot_bound": 1 - self.estimate.agreement,
        }
        if self.labels is not None:
            figures["labels_judged_by"] = float(self.labels.labels)
            figures["accuracy_change_on_labels"] = self.labels.accuracy_change
            figures["nll_change_on_labels"] = self.labels.nll_change
        if self.gain_on_labels is not None:
            figures["gain_over_zero_shot_on_labels"] = self.gain_on_labels
        return figures


@dataclass(frozen=True, slots=True)
class _OnLabels:
    """Logits (M, C) of the held-out labeled images, before any temperature, and their targets (M,)."""

    candidate: Float64
    parent: Float64
    zero_shot: Float64
    targets: Targets

    def accuracy(self, logits: Float64) -> float:
        """Of these logits (M, C)."""
        return float((logits.argmax(axis=-1) == self.targets).mean())


class Examiner:
    """Tries candidates.

    Args:
        store: where the parent's base is.
        runtime: where models are tried.
        settings: the worker's.
    """

    def __init__(self, store: Store, runtime: Runtime, settings: Settings) -> None:
        self._store = store
        self._runtime = runtime
        self._settings = settings
        self._limits = guard_limits(settings.guard)

    def examine(self, candidate: Candidate, encoder: Encoder, context: RoundContext) -> Evidence:
        """Hold a candidate, running in `encoder`, against the zero-shot model and its parent."""
        scale = context.parent.manifest.logit_scale
        span = current()
        with span.part("embed"):
            images = self._judged(context)
            logits = logits_of(
                embed_all(encoder, images), candidate.class_embeddings, scale
            )  # (N, C)
            zero_shot = _zero_shot(images)  # (N, C)
            found = self._on_labels(candidate, encoder, context)
        with span.part("calibrate"):
            calibration = _calibration_without_labels(logits, zero_shot, candidate, context.parent)
            if found is not None:
                calibration = self._refit(calibration, found.candidate, found.targets)
                calibration = self._with_reliability(calibration, found)
        with span.part("guard"):
            verdict = judge(softmax(logits), zero_shot, self._limits)
            reasons, labels, parent_is_worse, gain = verdict.reasons, None, False, None
            if found is not None:
                labels = self._judge_on_labels(found, calibration, context)
                worse = self._is_worse(found.candidate, found)
                reasons = _reasons(verdict, labels, worse=worse, limits=self._limits)
                parent_is_worse = self._is_worse(found.parent, found)
                gain = found.accuracy(found.candidate) - found.accuracy(found.zero_shot)
        return Evidence(
            reasons=reasons,
            verdict=verdict,
            labels=labels,
            parent_is_worse=parent_is_worse,
            calibration=calibration,
            ood=self._ood_rule(logits, scale, found),
            estimate=estimate_accuracy(
                softmax(logits, calibration.temperature), self._calibrated(zero_shot, found)
            ),
            gain_on_labels=gain,
        )

    def _judged(self, context: RoundContext) -> Sequence[Sample | LabeledSample]:
        """The window; with images of known classes as well where it is too small to have a spread."""
        if len(context.samples) >= self._limits.minimum_labels:
            return context.samples
        return (*context.samples, *context.labels)

    def _on_labels(
        self, candidate: Candidate, encoder: Encoder, context: RoundContext
    ) -> _OnLabels | None:
        labels = context.labels[-JUDGED_LABELS:]
        if not labels:
            return None
        version, scale = context.parent, context.parent.manifest.logit_scale
        base = self._store.base(version.manifest.base)
        parent = build_encoder(base, version.delta, self._runtime)
        return _OnLabels(
            candidate=logits_of(embed_all(encoder, labels), candidate.class_embeddings, scale),
            parent=logits_of(embed_all(parent, labels), version.head.class_embeddings, scale),
            zero_shot=np.log(np.maximum(_zero_shot(labels), np.finfo(np.float64).tiny)),
            targets=np.array([sample.target for sample in labels]),
        )

    def _refit(self, current: Calibration, logits: Float64, targets: Targets) -> Calibration:
        """A temperature by labels where there are enough and it is better on half of them."""
        if len(targets) < self._limits.minimum_labels:
            return current
        refit = refit_temperature(
            logits, targets, current=current.temperature, held_out=_every_other(targets)
        )
        if not refit.replaced:
            return current
        return Calibration(temperature=refit.temperature, fitted_on="labels")

    def _with_reliability(self, calibration: Calibration, found: _OnLabels) -> Calibration:
        """How right it is by how sure it is, on the labels that no temperature is fitted on this round."""
        if len(found.targets) < self._limits.minimum_labels:
            return calibration
        judged = _every_other(found.targets)
        p = softmax(found.candidate[judged], calibration.temperature)
        correct = (p.argmax(axis=-1) == found.targets[judged]).astype(np.float64)
        bins = tuple(ReliabilityBin(**asdict(b)) for b in reliability(p.max(axis=-1), correct))
        return calibration.model_copy(update={"reliability": bins})

    def _calibrated(self, zero_shot: Float64, found: _OnLabels | None) -> Float64:
        """Zero-shot probabilities (N, C), as sure as labels say they should be where there are enough."""
        if found is None or len(found.targets) < self._limits.minimum_labels:
            return zero_shot
        temperature = fit_temperature(found.zero_shot, found.targets)
        return softmax(np.log(np.maximum(zero_shot, np.finfo(np.float64).tiny)), temperature)

    def _judge_on_labels(
        self, found: _OnLabels, calibration: Calibration, context: RoundContext
    ) -> LabelVerdict:
        """Against the parent, both at the temperature these labels give them."""
        parent = self._refit(context.parent.manifest.calibration, found.parent, found.targets)
        return judge_on_labels(
            found.candidate / calibration.temperature,
            found.parent / parent.temperature,
            labels=found.targets,
            limits=self._limits,
        )

    def _is_worse(self, logits: Float64, found: _OnLabels) -> bool:
        """Whether labels say that a model is less accurate than the zero-shot one."""
        verdict = judge_on_labels(
            logits, found.zero_shot, labels=found.targets, limits=self._limits
        )
        return "worse_accuracy_on_labels" in verdict.reasons

    def _ood_rule(self, logits: Float64, scale: float, found: _OnLabels | None) -> OodRule:
        """Labeled images are of known classes for sure; a window may hold anything."""
        settings = self._settings.ood
        by_labels = found is not None and len(found.targets) >= self._limits.minimum_labels
        known = found.candidate if found is not None and by_labels else logits
        scores = ood.SCORES[settings.score](known, scale)
        threshold = ood.acceptance_threshold(scores, settings.accepted)
        fitted_on = "labels" if by_labels else "window"
        return OodRule(score=settings.score, threshold=threshold, fitted_on=fitted_on)


def guard_limits(settings: GuardSettings) -> GuardLimits:
    """The settings as the guard takes them."""
    return GuardLimits(
        settings.marginal_entropy_kept,
        settings.agreement,
        settings.confident_share,
        swallowed_kept=settings.class_kept,
        minimum_labels=settings.labels_min,
        labels_significance=settings.labels_significance,
        window_information=settings.window_information,
    )


def embed_all(encoder: Encoder, samples: Sequence[Sample | LabeledSample]) -> Float32:
    """Embeddings (N, D) of many images, in batches."""
    pixels: list[UInt8] = [sample.pixels for sample in samples]
    parts = [
        encoder.embed(np.stack(pixels[start : start + EMBED_BATCH]))
        for start in range(0, len(pixels), EMBED_BATCH)
    ]
    return np.concatenate(parts)


def _every_other(targets: Targets) -> npt.NDArray[np.bool_]:
    """Which labels judge the temperature; the others fit it."""
    judged: npt.NDArray[np.bool_] = np.arange(len(targets)) % 2 == 1
    return judged


def _zero_shot(samples: Sequence[Sample | LabeledSample]) -> Float64:
    """Frozen zero-shot probabilities (N, C)."""
    return np.stack([sample.zero_shot for sample in samples]).astype(np.float64)


def _calibration_without_labels(
    logits: Float64, zero_shot: Float64, candidate: Candidate, parent: Version
) -> Calibration:
    """After an unlabeled round the mean confidence is at most zero-shot's; else T stays the parent's."""
    if candidate.labels_used:
        temperature = parent.manifest.calibration.temperature
        return Calibration(temperature=temperature, fitted_on="inherited")
    target = float(zero_shot.max(axis=-1).mean())
    return Calibration(temperature=softening_temperature(logits, target), fitted_on="label-free")


def _reasons(
    verdict: Verdict, labels: LabelVerdict, *, worse: bool, limits: GuardLimits
) -> tuple[Reason, ...]:
    """What speaks against a candidate; where there are enough labels, they decide what they can."""
    if labels.labels < limits.minimum_labels:
        return verdict.reasons
    kept = [reason for reason in verdict.reasons if reason not in LEFT_TO_LABELS]
    against_parent = list(labels.reasons)
    if worse and "worse_accuracy_on_labels" not in against_parent:
        against_parent.append("worse_accuracy_on_labels")
    return (*kept, *against_parent)
