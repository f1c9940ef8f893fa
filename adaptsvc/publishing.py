"""A candidate to a version, or to a refusal: parity, evidence, publication, promotion.

It knows nothing of streams, of how the candidate was learned, or of what speaks against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adaptsvc.clip.export import export_base, export_tuned
from adaptsvc.clip.load import Clip
from adaptsvc.config import Settings
from adaptsvc.errors import PromotionConflictError
from adaptsvc.evidence import Evidence, Examiner, RoundContext
from adaptsvc.learner import Candidate, Learner
from adaptsvc.metrics import Outcome
from adaptsvc.serving.encoder import Encoder, Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.serving.predictor import describe_self_test
from adaptsvc.tracing import VERSION, current
from adaptsvc.types import Float32, Tensors
from adaptsvc.versions.base import Base, Precision, marked
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Calibration, Draft, OodRule
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.store import Store


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a candidate.

    Attributes:
        outcome: promoted, a candidate on trial, refused by the guard, or overtaken by another promotion.
        version: its id, or the one that goes on serving.
        reasons: why it does not serve; empty when it does.
        evidence: what was found out about it.
    """

    outcome: Outcome
    version: int
    reasons: tuple[str, ...]
    evidence: Evidence


class Publisher:
    """Decides on candidates and puts them in the store.

    Args:
        store: where versions go.
        pointer: which one serves.
        runtime: where candidates are tried.
        settings: the worker's.
        submit: put a version and its parent on trial, instead of promoting it at once.
    """

    def __init__(
        self,
        store: Store,
        pointer: Pointer,
        runtime: Runtime,
        settings: Settings,
        submit: Callable[[int, int], None] | None = None,
    ) -> None:
        self._store = store
        self._pointer = pointer
        self._runtime = runtime
        self._settings = settings
        self._submit = submit
        self._examiner = Examiner(store, runtime, settings)

    def decide(self, learner: Learner, candidate: Candidate, context: RoundContext) -> Decision:
        """Try a candidate; publish it and promote it or put it on trial, or keep it as refused.

        Raises:
            ParityError: ONNX Runtime does not answer as torch does.
        """
        before = base = self._store.base(context.parent.manifest.base)
        same = _same(candidate.tower, before.tuned())
        try:
            with current().part("export"):
                base = before if same else self._base(learner, candidate)
                encoder = build_encoder(base, candidate.delta, self._runtime)
            return self._decide(learner, candidate, context, encoder)
        finally:
            if candidate.tower and base is not before:
                self._store.discard_base(base.digest)  # it stays when a version came of it

    def _base(self, learner: Learner, candidate: Candidate) -> Base:
        """The base of other weights than the parent's."""
        precision = self._settings.serve.precision
        if not candidate.tower:  # back at the CLIP's own weights
            return ensure_base(learner.clip, self._store, precision)
        return self._store.add_base(
            lambda directory: export_tuned(learner.clip, candidate.tower, directory, precision)
        )

    def _decide(
        self, learner: Learner, candidate: Candidate, context: RoundContext, encoder: Encoder
    ) -> Decision:
        span = current()
        with span.part("parity"):
            learner.check_parity(candidate, encoder, context.samples or context.labels)
        evidence = self._examiner.examine(candidate, encoder, context)
        parent = context.parent.manifest.id
        with span.part("publish") as publishing:
            draft, head = self._draft(candidate, context, encoder, evidence)
            if evidence.reasons:
                self._store.refuse(draft, candidate.delta, head, evidence.reasons)
                return Decision("refused", parent, evidence.reasons, evidence)
            manifest = self._store.publish(draft, candidate.delta, head, record=context.record)
            publishing.describe({VERSION: manifest.id})
        if self._submit is not None:
            self._submit(manifest.id, parent)
            return Decision("candidate", parent, (), evidence)
        try:
            with span.part("promote") as promoting:
                promoting.describe({VERSION: manifest.id})
                self._pointer.compare_and_set(parent, manifest.id)
        except PromotionConflictError as exc:
            serving = self._pointer.read().version
            return Decision("conflict", serving or 0, (str(exc),), evidence)
        return Decision("promoted", manifest.id, (), evidence)

    def _draft(
        self, candidate: Candidate, context: RoundContext, encoder: Encoder, evidence: Evidence
    ) -> tuple[Draft, Head]:
        parent, settings = context.parent.manifest, self._settings
        self_test, expected = describe_self_test(encoder, context.seed)
        section = settings.tune if candidate.labels_used else settings.learn
        draft = Draft(
            parent=parent.id,
            base=encoder.base.digest,
            model=parent.model,
            method=candidate.method,
            classes=parent.classes,
            prompt=parent.prompt,
            logit_scale=parent.logit_scale,
            calibration=evidence.calibration,
            ood=evidence.ood,
            self_test=self_test,
            metrics={
                **candidate.losses,
                **evidence.metrics,
                "window_images": float(len(context.samples)),
                "stepped_images": float(candidate.images),
            },
            offsets=context.offsets,
            config=section.model_dump(mode="json"),
            seed=context.seed,
        )
        return draft, Head(candidate.class_embeddings, candidate.context, expected)


def _same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(value, second[name]) for name, value in first.items()
    )


def ensure_base(clip: Clip, store: Store, precision: Precision = "float32") -> Base:
    """The base model of a CLIP in that precision, exported when it is not in the store yet."""
    found = store.find_base(marked(clip.fingerprint, precision))
    return found or store.add_base(lambda directory: export_base(clip, directory, precision))


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
