"""A candidate to a version, or to a refusal: parity, guard, calibration, publication, promotion.

It knows nothing of streams or of how the candidate was learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptsvc.adapt.window import Sample
from adaptsvc.clip.export import export_base
from adaptsvc.clip.load import Clip
from adaptsvc.config import Settings
from adaptsvc.errors import PromotionConflictError
from adaptsvc.learner import Candidate, Learner
from adaptsvc.metrics import Outcome
from adaptsvc.serving.encoder import Encoder, Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.serving.predictor import describe_self_test, logits_of
from adaptsvc.trust import ood
from adaptsvc.trust.calibration import softmax, temperature_for_confidence
from adaptsvc.trust.guard import GuardLimits, Verdict, judge
from adaptsvc.types import Float32, Float64
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Calibration, Draft, OodRule
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.store import Base, Version, VersionStore

EMBED_BATCH = 32


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a candidate.

    Attributes:
        outcome: promoted, refused by the guard, or overtaken by another promotion.
        version: its id, or the one that goes on serving.
        reasons: why it does not serve; empty when it does.
    """

    outcome: Outcome
    version: int
    reasons: tuple[str, ...]
    verdict: Verdict
    temperature: float


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What a round is known by: from where, on what, with which draws."""

    parent: Version
    samples: Sequence[Sample]
    offsets: dict[str, int]
    seed: int


class Publisher:
    """Decides on candidates and puts them in the store.

    Args:
        store: where versions go.
        pointer: which one serves.
        base: what they are deltas to.
        runtime: where candidates are tried.
        settings: the worker's.
    """

    def __init__(
        self,
        store: VersionStore,
        pointer: Pointer,
        base: Base,
        runtime: Runtime,
        settings: Settings,
    ) -> None:
        self._store = store
        self._pointer = pointer
        self._base = base
        self._runtime = runtime
        self._settings = settings

    def decide(self, learner: Learner, candidate: Candidate, context: RoundContext) -> Decision:
        """Try a candidate on the window; publish and promote it, or keep it as refused.

        Raises:
            ParityError: ONNX Runtime does not answer as torch does.
        """
        encoder = build_encoder(self._base, candidate.delta, self._runtime)
        learner.check_parity(candidate, encoder, context.samples)
        scale = context.parent.manifest.logit_scale
        embeddings = embed_all(encoder, context.samples)
        logits = logits_of(embeddings, candidate.class_embeddings, scale)  # (N, C)
        zero_shot = np.stack([s.zero_shot for s in context.samples]).astype(np.float64)
        verdict = judge(softmax(logits), zero_shot, self._limits())
        draft, head = self._draft(candidate, context, encoder, verdict, logits)
        temperature = draft.calibration.temperature
        parent = context.parent.manifest.id
        if not verdict.accepted:
            self._store.refuse(draft, candidate.delta, head, verdict.reasons)
            return Decision("refused", parent, verdict.reasons, verdict, temperature)
        manifest = self._store.publish(draft, candidate.delta, head)
        try:
            self._pointer.compare_and_set(parent, manifest.id)
        except PromotionConflictError as exc:
            serving = self._pointer.read().version
            return Decision("conflict", serving or 0, (str(exc),), verdict, temperature)
        return Decision("promoted", manifest.id, (), verdict, temperature)

    def _limits(self) -> GuardLimits:
        guard = self._settings.guard
        return GuardLimits(guard.marginal_entropy_kept, guard.agreement, guard.confident_share)

    def _draft(
        self,
        candidate: Candidate,
        context: RoundContext,
        encoder: Encoder,
        verdict: Verdict,
        logits: Float64,
    ) -> tuple[Draft, Head]:
        parent, settings = context.parent.manifest, self._settings
        self_test, expected = describe_self_test(encoder, context.seed)
        draft = Draft(
            parent=parent.id,
            base=self._base.digest,
            model=parent.model,
            method=settings.learn.objective,
            classes=parent.classes,
            prompt=parent.prompt,
            logit_scale=parent.logit_scale,
            calibration=_calibration(logits, context),
            ood=_ood_rule(logits, parent.logit_scale, settings),
            self_test=self_test,
            metrics={
                **candidate.losses,
                "guard_marginal_entropy_nats": verdict.marginal_entropy_nats,
                "guard_agreement": verdict.agreement,
                "window_images": float(len(context.samples)),
                "stepped_images": float(candidate.images),
            },
            offsets=context.offsets,
            config=settings.learn.model_dump(mode="json"),
            seed=context.seed,
        )
        return draft, Head(candidate.class_embeddings, candidate.context, expected)


def ensure_base(clip: Clip, store: VersionStore) -> Base:
    """The base model of a CLIP, exported when it is not in the store yet."""
    found = store.find_base(clip.fingerprint)
    return found or store.add_base(lambda directory: export_base(clip, directory))


def zero_shot_draft(
    clip: Clip, encoder: Encoder, settings: Settings, head: tuple[Float32, Float32]
) -> tuple[Draft, Head]:
    """The version that nothing was learned for.

    Args:
        clip: the model.
        encoder: its base, without a delta.
        settings: class names, prompt, OOD score.
        head: class embeddings (C, D) and prompt context (M, W).
    """
    self_test, expected = describe_self_test(encoder, settings.learn.seed)
    draft = Draft(
        parent=None,
        base=encoder.base.digest,
        model=clip.name,
        method="zero-shot",
        classes=settings.classes,
        prompt=settings.prompt,
        logit_scale=clip.logit_scale,
        calibration=Calibration(temperature=1.0, fitted_on="default"),
        ood=OodRule(score=settings.ood.score, threshold=None, fitted_on="nothing"),
        self_test=self_test,
    )
    return draft, Head(*head, expected)


def embed_all(encoder: Encoder, samples: Sequence[Sample]) -> Float32:
    """Embeddings (N, D) of a whole window, in batches."""
    parts = [
        encoder.embed(np.stack([sample.pixels for sample in samples[start : start + EMBED_BATCH]]))
        for start in range(0, len(samples), EMBED_BATCH)
    ]
    return np.concatenate(parts)


def _calibration(logits: Float64, context: RoundContext) -> Calibration:
    """Keep the window's mean confidence where the zero-shot model has it."""
    confidence = float(np.mean([sample.zero_shot.max() for sample in context.samples]))
    temperature = temperature_for_confidence(logits, confidence)
    return Calibration(temperature=temperature, fitted_on="label-free")


def _ood_rule(logits: Float64, logit_scale: float, settings: Settings) -> OodRule:
    scores = ood.SCORES[settings.ood.score](logits, logit_scale)
    threshold = ood.acceptance_threshold(scores, settings.ood.accepted)
    return OodRule(score=settings.ood.score, threshold=threshold, fitted_on="window")
