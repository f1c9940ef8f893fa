"""Which round is due, and one round: from the version that serves to a decision.

It knows nothing of streams or checkpoints. A round on labels comes first when both are due. A run of refused
candidates freezes learning without labels for some rounds; when that happens again and again, the worker goes
back to the parent of what serves, and then to the zero-shot model.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from adaptsvc import memory
from adaptsvc.config import Settings
from adaptsvc.errors import (
    ModelError,
    NonFiniteStepError,
    PromotionConflictError,
    StateError,
    StateUnavailableError,
    VersionError,
    VersionTooLargeError,
)
from adaptsvc.evidence import Evidence, RoundContext, guard_limits
from adaptsvc.intake import Intake
from adaptsvc.learner import Candidate, Learner
from adaptsvc.metrics import Observer, Outcome
from adaptsvc.publishing import Publisher
from adaptsvc.recording import record_images, record_labels, this_machine
from adaptsvc.shadow_record import Verdict
from adaptsvc.tracing import Attributes, current
from adaptsvc.trust.guard import judge_labels, judge_window, window_information
from adaptsvc.trust.patience import Action, Patience, PatienceLimits, after
from adaptsvc.trust.patience import Outcome as Trial
from adaptsvc.tuner import Tuner, start_from
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.round_record import Kind, RoundRecord
from adaptsvc.versions.store import Store

log = logging.getLogger(__name__)
REASON_CHARACTERS = 200
TIMEOUT = "shadow_timeout"
SEED_STEP = 1_000_003  # rounds of two seeds do not share draws


class StopRound(Exception):  # noqa: N818 - a signal, not an error
    """The worker was told to stop in the middle of a round."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a round works with."""

    store: Store
    pointer: Pointer
    learner: Learner
    publisher: Publisher
    observer: Observer


@dataclass(frozen=True, slots=True)
class Round:
    """What a round came to.

    Attributes:
        number: counted from 1.
        method: the objective.
        outcome: promoted, candidate (on trial before it may serve), refused, failed, conflict, or skipped.
        version: the one that serves now.
        parent: the version it started from.
        reasons: why nothing new serves; empty when it does.
        evidence: what was found out about its candidate, if it made one.
        images: how many it learned from.
        seconds: how long it took.
        action: what repeated trouble led to.
    """

    number: int
    method: str
    outcome: Outcome
    version: int
    parent: int
    reasons: tuple[str, ...]
    evidence: Evidence | None
    images: int
    seconds: float
    action: Action

    @property
    def facts(self) -> Attributes:
        """It as a span says it; the reason of a failure is a sentence, and cut."""
        return {
            "adaptsvc.round": self.number,
            "adaptsvc.method": self.method,
            "adaptsvc.outcome": self.outcome,
            "adaptsvc.reasons": [reason[:REASON_CHARACTERS] for reason in self.reasons],
            "adaptsvc.action": self.action,
            "adaptsvc.version": self.version,
            "adaptsvc.parent_version": self.parent,
            "adaptsvc.images": self.images,
        }

    def event(self, now: float) -> bytes:
        """It as JSON, for the topic of model events."""
        content = {
            "event": self.outcome,
            "round": self.number,
            "method": self.method,
            "version": self.version,
            "parent": self.parent,
            "reasons": list(self.reasons),
            "action": self.action,
            "figures": {} if self.evidence is None else self.evidence.metrics,
            "round_seconds": self.seconds,
            "images": self.images,
            "at": now,
        }
        return json.dumps(content).encode()


class Rounds:
    """Rounds, one after another.

    Args:
        parts: what they work with.
        settings: read once, by the entry point.
        between_steps: called before each step; what it raises ends the round.
    """

    def __init__(
        self, parts: Parts, settings: Settings, *, between_steps: Callable[[], None]
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._between_steps = between_steps
        self._tuner = Tuner(parts.learner.tower)
        guard = settings.guard
        self._limits = PatienceLimits(
            refusals=guard.refusals,
            cool_down_rounds=guard.cool_down_rounds,
            freezes=guard.freezes,
        )
        self.count = 0
        self.patience = Patience()

    def due(self, intake: Intake) -> Kind | None:
        """The kind of round that has enough to learn from; a full window is enough."""
        learn, tune = self._settings.learn, self._settings.tune
        enough_labels = tune.labels_min and intake.new_labels >= tune.labels_min
        to_judge_by = len(intake.window) or intake.labels.held_out
        if enough_labels and len(intake.labels.training) >= 2 and to_judge_by:
            return "labels"
        enough = min(learn.round_images, intake.window.capacity)
        if intake.new_images >= enough and len(intake.window) >= enough:
            return "images"
        return None

    def method(self, kind: Kind) -> str:
        """The objective of a kind of round."""
        return self._settings.tune.method if kind == "labels" else self._settings.learn.objective

    def run(self, kind: Kind, intake: Intake) -> Round:
        """One round on what the intake holds; its count of new images or labels starts again.

        Raises:
            StopRound: `between_steps` says so; nothing has changed.
            StateError: the shared state does not answer, or this worker may not write. The counts stay, so
                the round is due again; if it was its last step that got no answer, its version may serve.
            DiskFullError: there was no room for its version; as above.
        """
        started = time.perf_counter()
        distrust = self._distrust(intake)
        context = self._context(intake, distrust)
        method = self.method(kind)
        images = len(intake.labels.training) if kind == "labels" else len(intake.window)
        log.info(
            "round %d starts: %s, from version %d",
            self.count + 1,
            method,
            context.parent.manifest.id,
        )
        outcome, version, reasons, evidence = self._try(kind, intake, context, distrust)
        action, version = self._bear(outcome, evidence, version)
        self.count += 1
        if kind == "labels":
            intake.new_labels = 0
        else:
            intake.new_images = 0
            intake.window.take()
        memory.give_back()
        return Round(
            number=self.count,
            method=method,
            outcome=outcome,
            version=version,
            parent=context.parent.manifest.id,
            reasons=reasons,
            evidence=evidence,
            images=images,
            seconds=time.perf_counter() - started,
            action=action,
        )

    def _context(self, intake: Intake, distrust: tuple[str, ...]) -> RoundContext:
        current = self._parts.pointer.read().version
        if current is None:
            raise StateError(
                "no version serves any more: the shared state has lost its data; run `adaptsvc versions "
                "activate N` on a machine that has version N"
            )
        return RoundContext(
            parent=self._parts.store.load(current),
            samples=intake.window.samples,
            labels=() if distrust else intake.labels.held_out,
            offsets=dict(intake.offsets),
            seed=self._settings.learn.seed * SEED_STEP + self.count + 1,
        )

    def _try(
        self, kind: Kind, intake: Intake, context: RoundContext, distrust: tuple[str, ...]
    ) -> tuple[Outcome, int, tuple[str, ...], Evidence | None]:
        parent = context.parent.manifest.id
        reasons = distrust if kind == "labels" else self._reasons_to_skip(context)
        if self._is_foreign(context):
            reasons = ("foreign_classes",)
        if self._parts.pointer.read().held:  # a candidate could not be promoted: none is made
            reasons = ("held_by_a_person",)
        if reasons:
            return "skipped", parent, reasons, None
        try:
            with current().part("adapt"):
                candidate = self._candidate(kind, intake, context)
            self._between_steps()
            context = replace(context, record=self._record(kind, intake, context).to_bytes())
            decision = self._parts.publisher.decide(self._parts.learner, candidate, context)
        except (NonFiniteStepError, ModelError, VersionTooLargeError) as exc:
            log.error("the round failed: %s; the serving version stays", exc)
            return "failed", parent, (str(exc),), None
        return decision.outcome, decision.version, decision.reasons, decision.evidence

    def _is_foreign(self, context: RoundContext) -> bool:
        """Whether what serves was made for other classes: its head and our targets mean different things."""
        manifest, settings = context.parent.manifest, self._settings
        return (manifest.classes, manifest.prompt) != (settings.classes, settings.prompt)

    def _distrust(self, intake: Intake) -> tuple[str, ...]:
        """Why no label is to be believed now; empty when they may be."""
        if not (labels := intake.labels.samples):
            return ()
        zero_shot = np.stack([s.zero_shot for s in labels]).astype(np.float64)
        targets = np.array([s.target for s in labels])
        return judge_labels(zero_shot, targets, guard_limits(self._settings.guard))

    def _reasons_to_skip(self, context: RoundContext) -> tuple[str, ...]:
        if self.patience.frozen:
            return ("frozen_after_refusals",)
        zero_shot = np.stack([s.zero_shot for s in context.samples]).astype(np.float64)
        limits = guard_limits(self._settings.guard)
        log.info(
            "the zero-shot model tells the window's images apart by %.2f; from %.2f on it is learned from",
            window_information(zero_shot),
            limits.window_information,
        )
        return judge_window(zero_shot, limits)

    def _candidate(self, kind: Kind, intake: Intake, context: RoundContext) -> Candidate:
        learner, version = self._parts.learner, context.parent
        learner.load(version, self._parts.store.base(version.manifest.base).tuned())
        if kind == "images":
            return learner.learn(
                context.samples,
                self._settings.learn,
                context.seed,
                between_steps=self._between_steps,
            )
        return self._tuner.tune(
            start_from(version, learner),
            intake.labels.training,
            self._settings.tune,
            seed=context.seed,
            between_steps=self._between_steps,
        )

    def _record(self, kind: Kind, intake: Intake, context: RoundContext) -> RoundRecord:
        machine = this_machine(self._settings.learn.device, self._parts.learner.ranks)
        if kind == "images":
            return record_images(context.samples, machine)
        return record_labels(intake.labels.training, machine)

    def tried(self, verdict: Verdict) -> Action:
        """Count what a trial on live images came to, and go back when it is too much."""
        if verdict.outcome == "overtaken" or TIMEOUT in verdict.reasons:
            return "continue"  # that was not for the candidate to change
        serving = verdict.version if verdict.outcome == "promoted" else verdict.parent
        try:
            action, _ = self._bear(verdict.outcome, None, serving)
            found = self._parts.store.manifest(verdict.version).metrics
        except (StateUnavailableError, VersionError) as exc:
            log.warning(
                "what the trial of version %d means is not counted: %s", verdict.version, exc
            )
            return "continue"
        if verdict.outcome == "promoted" and "accuracy_estimate" in found:
            self._parts.observer.estimated(found["accuracy_estimate"])
        return action

    def _bear(
        self, outcome: Outcome, evidence: Evidence | None, version: int
    ) -> tuple[Action, int]:
        """Count what the round came to, and go back when it is too much; the version that serves then."""
        worse = evidence is not None and evidence.parent_is_worse and outcome == "refused"
        trial: Trial = "worsened" if worse else TRIALS[outcome]
        patience, action = after(trial, self.patience, self._limits)
        if action == "reset_to_last_good":
            version = self._go_back(version, to_zero_shot=False)
        elif action == "reset_to_zero_shot":
            version = self._go_back(version, to_zero_shot=True)
        self.patience = patience
        return action, version

    def _go_back(self, version: int, *, to_zero_shot: bool) -> int:
        """Serve the parent of a version, or its first ancestor, which learned nothing; what serves then.

        A parent that was pruned is passed over; what is nearest to it in the line of descent serves.
        """
        store = self._parts.store
        kept, target = store.ids(), store.manifest(version)
        while target.parent is not None:
            target = store.manifest(target.parent)
            if not to_zero_shot and target.id in kept:
                break
        if target.id == version:
            return version
        try:
            self._parts.pointer.compare_and_set(version, target.id)
        except PromotionConflictError as exc:
            log.warning("version %d stays: %s", version, exc)
            return version
        log.warning("too many refused rounds: version %d serves again", target.id)
        self._parts.observer.went_back()
        return target.id


TRIALS: dict[Outcome, Trial] = {
    "promoted": "accepted",
    "candidate": "skipped",  # it counts when its trial is over
    "conflict": "accepted",
    "refused": "refused",
    "failed": "refused",
    "skipped": "skipped",
}
