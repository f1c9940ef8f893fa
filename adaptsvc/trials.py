"""Candidates that passed the guard, one after another on trial: which is next, and what becomes of each.

It knows nothing of images or of models; the service processes try a candidate on live images and say what
they found (see adaptsvc.serving.shadow). One candidate is tried at a time, and the next one never cuts its
window short. Of those that wait only the newest is kept: all of them were made from the version that serves,
and the newest has learned from the newest images. Promotion stays compare-and-set on the parent, so that
whatever else came to serve meanwhile, by a person's hand or by going back, wins. All of it is in the shared
state, and outlives its processes.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from adaptsvc.errors import (
    PromotionConflictError,
    PromotionHeldError,
    StateError,
    StateUnavailableError,
    VersionError,
)
from adaptsvc.metrics import Observer
from adaptsvc.shadow_record import Candidate, Figures, ShadowState, Trial, Verdict
from adaptsvc.shadow_section import ShadowSettings
from adaptsvc.trust.shadow import ShadowLimits, Tally, judge
from adaptsvc.versions.manifest import Draft
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.shadow_desk import ShadowDesk
from adaptsvc.versions.store import Store

log = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
OVERTAKEN, HELD = "shadow_overtaken", "held_by_a_person"


@dataclass(frozen=True, slots=True)
class Places:
    """Where candidates, what is said of them, and what serves are."""

    store: Store
    pointer: Pointer
    desk: ShadowDesk


class Trials:
    """The worker's side: the only one that starts and ends a trial.

    Args:
        places: of the shared state.
        settings: what a candidate must show.
        observer: told of figures and decisions.
    """

    def __init__(self, places: Places, settings: ShadowSettings, observer: Observer) -> None:
        self._places = places
        self._settings = settings
        self._limits = ShadowLimits(
            **settings.model_dump(include=set(ShadowLimits.__dataclass_fields__))
        )
        self._observer = observer
        self._known: ShadowState | None = None
        self._looked_at = -math.inf

    def submit(self, version: int, parent: int) -> None:
        """Put a published version in the queue, in place of one that waits.

        Raises:
            StateUnavailableError: the shared state does not answer; it is not in the queue.
        """
        state = self._state()
        if state.waiting is not None:
            log.info("shadow: version %d waits in place of %d", version, state.waiting.version)
        self._write(state.model_copy(update={"waiting": Candidate(version=version, parent=parent)}))

    def look(self, now: float) -> Verdict | None:
        """Start the next trial, or decide on the one that runs; what was decided, if anything was.

        Raises:
            StateUnavailableError: the shared state does not answer; nothing is lost, look again.
        """
        state = self._state()
        if state.trial is None and state.waiting is None:
            return None
        if 0 <= now - self._looked_at < LOOK_EVERY_S:
            return None
        self._looked_at = now
        if state.trial is not None:
            return self._decide(state.trial, state, now)
        assert state.waiting is not None
        return self._begin(state.waiting, state, now)

    def candidates(self) -> list[int]:
        """The versions that are tried or wait, which must not be pruned."""
        return sorted(self._state().versions)

    def _begin(self, candidate: Candidate, state: ShadowState, now: float) -> Verdict | None:
        if (reason := self._overtaken(candidate)) is not None:
            waited = Trial(**dict(candidate), since=now, until=now)
            return self._end(waited, state.model_copy(update={"waiting": None}), (reason,), now)
        self._places.desk.reports.clear()
        until = now + self._settings.timeout_s
        trial = Trial(**dict(candidate), since=now, until=until)
        self._write(state.model_copy(update={"trial": trial, "waiting": None}))
        log.info("shadow: version %d answers live images unseen, beside %d", *_ids(candidate))
        return None

    def _decide(self, trial: Trial, state: ShadowState, now: float) -> Verdict | None:
        if self._places.pointer.read().version == trial.version:  # a person was faster, or we died
            return self._end(trial, state, (), now)
        if (overtaken := self._overtaken(trial)) is not None:
            return self._end(trial, state, (overtaken,), now)
        tally, problem = self._places.desk.found(trial.version)
        self._observer.shadow_figures(tally)
        finding = judge(tally, self._limits, age_s=now - trial.since, failed=bool(problem))
        if not finding.decided:
            return None
        if finding.reasons:
            self._keep_refused(trial.version, finding.reasons)
            return self._end(trial, state, finding.reasons, now, tally)
        try:
            self._places.pointer.compare_and_set(trial.parent, trial.version)
        except PromotionConflictError as exc:
            reason = HELD if isinstance(exc, PromotionHeldError) else OVERTAKEN
            return self._end(trial, state, (reason,), now, tally)
        return self._end(trial, state, (), now, tally)

    def _overtaken(self, candidate: Candidate) -> str | None:
        """Why a candidate cannot be promoted, whatever it shows."""
        current = self._places.pointer.read()
        if current.version != candidate.parent:
            return OVERTAKEN
        return HELD if current.held else None

    def _end(
        self,
        trial: Trial,
        state: ShadowState,
        reasons: tuple[str, ...],
        now: float,
        tally: Tally | None = None,
    ) -> Verdict:
        """Note a verdict; what it is made of is forgotten when the next trial begins."""
        figures = Figures.of(tally or self._places.desk.found(trial.version)[0])
        overtaken = any(reason in (OVERTAKEN, HELD) for reason in reasons)
        verdict = Verdict(
            version=trial.version,
            parent=trial.parent,
            outcome="overtaken" if overtaken else "refused" if reasons else "promoted",
            reasons=reasons,
            figures=figures,
            at=now,
        )
        self._write(state.model_copy(update={"trial": None, "last": verdict}))
        self._observer.shadow_decided(verdict.outcome)
        log.info(
            "shadow: version %d is %s after %d images: agreement %s, confidence %s, latency %s %s",
            trial.version,
            verdict.outcome,
            figures.images,
            *map(_shown, (figures.agreement, figures.confidence_shift, figures.latency_ratio)),
            ", ".join(reasons),
        )
        return verdict

    def _keep_refused(self, version: int, reasons: tuple[str, ...]) -> None:
        """Have the history say why, as of what the guard refused."""
        store = self._places.store
        try:
            found = store.load(version)
        except VersionError as exc:
            log.warning("why version %d was refused is in the log alone: %s", version, exc)
            return
        content: dict[str, Any] = {k: getattr(found.manifest, k) for k in Draft.model_fields}
        store.refuse(Draft(**content), found.delta, found.head, reasons)

    def _state(self) -> ShadowState:
        """What this worker wrote last, or one before it; the shared state is asked once."""
        if self._known is None:
            try:
                self._known = self._places.desk.read()
            except StateUnavailableError:
                raise
            except StateError as exc:
                log.error("no candidate is tried or waits: %s", exc)
                self._known = ShadowState()
        return self._known

    def _write(self, state: ShadowState) -> None:
        self._places.desk.write(state)
        self._known = state


def _ids(candidate: Candidate) -> tuple[int, int]:
    return candidate.version, candidate.parent


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
