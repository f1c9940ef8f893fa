"""The worker's watch over the stream: embeddings in, a summary and events out, and what a checkpoint keeps.

It knows nothing of streams, and decides nothing: an alarm changes neither what is learned nor what serves.

Everything is taken from the frozen zero-shot model, so that a signal moves because the images do and not
because a version learned. What is normal follows the versions: at each promotion the newest images, from
which that version was made, become the reference. Before the first promotion it is the first images of the
stream; there is no other data that would be known to be like it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np

from adaptsvc.config import Settings
from adaptsvc.drift_summary import (
    SIGNALS,
    ClassReport,
    DriftSummary,
    Reference,
    SignalName,
    SignalReport,
)
from adaptsvc.errors import StateUnavailableError
from adaptsvc.serving.predictor import logits_of
from adaptsvc.trust import ood
from adaptsvc.trust.calibration import softmax
from adaptsvc.trust.drift import Comparison, Limits, looks_of
from adaptsvc.trust.monitor import Monitor
from adaptsvc.trust.sequential import threshold
from adaptsvc.types import Float32

log = logging.getLogger(__name__)
TELL_EVERY_S = 5.0
Event: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What makes answers of embeddings: class embeddings (C, D), and the logit scale."""

    class_embeddings: Float32
    logit_scale: float


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where a watch tells what it finds, and what it asks.

    Attributes:
        write: the summary, where every service process reads it.
        announce: an event, on the stream.
        serving: the version that serves; None while that is not known.
    """

    write: Callable[[bytes], object]
    announce: Callable[[Event], object]
    serving: Callable[[], int | None]


class Watch:
    """Watches the stream of one worker.

    Args:
        settings: sizes, class names, and how rare false alarms are.
        head: of the frozen zero-shot model.
        outlets: where it is told.
    """

    def __init__(self, settings: Settings, head: Head, outlets: Outlets) -> None:
        self._settings = settings
        self._head = head
        self._outlets = outlets
        self._monitor = self._new_monitor()
        self._since: dict[str, float] = {}
        self._reference: Reference | None = None
        self._told_at = -math.inf
        self._news = False

    def see(self, embeddings: Float32, failures: int, now: float) -> None:
        """Take in images by their unit embeddings (N, D), and messages that were none."""
        if not len(embeddings) and not failures:
            return
        self._news = True
        if len(embeddings):
            head, score = self._head, ood.SCORES[self._settings.ood.score]
            logits = logits_of(embeddings, head.class_embeddings, head.logit_scale)  # (N, C)
            probabilities = softmax(logits)
            looks = looks_of(embeddings, probabilities, score(logits, head.logit_scale))
            self._monitor.update(looks, probabilities)
        self._monitor.failed(failures)
        self._notice(now)
        if self._monitor.is_due and (version := self._outlets.serving()) is not None:
            self.rebuild(version, now)

    def rebuild(self, version: int, now: float) -> None:
        """Hold images against the newest ones from now on, from which this version was made."""
        if not self._monitor.rebuild():
            log.warning("version %d: too few images for a reference of drift", version)
            return
        for name in self._since:
            self._announce("drift_ended", name, now)
        self._since = {}
        images = len(self._monitor.reference or ())
        at = datetime.fromtimestamp(now, UTC)
        self._reference = Reference(version=version, images=images, built_at=at)
        self._news, self._told_at = True, -math.inf
        log.info("drift: from now on against %d images, of version %d", images, version)
        self._outlets.announce(
            {"event": "drift_reference", "version": version, "images": images, "at": now}
        )

    def tell(self, now: float) -> None:
        """Write the summary when there is something new, and not more often than it is read."""
        if not self._news or 0 <= now - self._told_at < TELL_EVERY_S:
            return
        self._told_at = now
        try:
            self._outlets.write(self.summary(now).model_dump_json().encode())
            self._news = False
        except StateUnavailableError as exc:
            log.warning("drift is not told now: %s", exc)

    def summary(self, now: float) -> DriftSummary:
        """All signals."""
        monitor, recent = self._monitor, self._monitor.recent
        found = monitor.compare()
        return DriftSummary(
            reference=self._reference,
            images=monitor.images,
            recent_images=0 if recent is None else len(recent),
            updated_at=datetime.fromtimestamp(now, UTC),
            signals=tuple(self._report(name, found.get(name)) for name in SIGNALS),
            classes=self._classes() if found else (),
        )

    def save(self) -> str:
        """All that has to survive a restart, as text for the checkpoint."""
        buffer = io.BytesIO()
        about = {
            "task": self._task,
            "since": self._since,
            "reference": None
            if self._reference is None
            else self._reference.model_dump(mode="json"),
        }
        data = np.frombuffer(json.dumps(about).encode(), np.uint8)
        arrays: dict[str, Any] = {"about": data, **self._monitor.arrays()}
        np.savez_compressed(buffer, **arrays)
        return base64.b64encode(buffer.getvalue()).decode()

    def restore(self, text: str) -> None:
        """Go on from what `save` gave; as before where it is of other classes, or cannot be read."""
        if not text:
            return
        try:
            with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(arrays.pop("about").tobytes())
            if about["task"] != self._task:
                log.warning("drift begins anew: other classes, another model or other settings")
                return
            monitor = self._new_monitor()
            monitor.restore(arrays)
            reference = about["reference"] and Reference.model_validate(about["reference"])
            since = {name: float(at) for name, at in about["since"].items()}
        except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as exc:
            log.error("drift begins anew, what the checkpoint has of it cannot be read: %s", exc)
            return
        self._monitor, self._reference, self._since = monitor, reference or None, since
        self._news = True

    @property
    def _task(self) -> str:
        """What must be the same for a saved state to mean anything."""
        settings = self._settings
        parts = [settings.model, settings.classes, settings.prompt, settings.ood.score]
        content = json.dumps([*parts, settings.drift.model_dump()])
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def _threshold(self) -> float:
        return threshold(self._images_per_false_alarm)

    @property
    def _images_per_false_alarm(self) -> int:
        return len(SIGNALS) * self._settings.drift.images_per_false_alarm

    def _new_monitor(self) -> Monitor:
        drift = self._settings.drift
        return Monitor(
            Limits(
                reference_images=drift.reference_images,
                recent_images=drift.recent_images,
                images_per_false_alarm=self._images_per_false_alarm,
                classes=len(self._settings.classes),
                seed=self._settings.learn.seed,
            )
        )

    def _notice(self, now: float) -> None:
        """Tell of alarms that began or ended."""
        before, alarms = self._since, self._monitor.alarms
        self._since = {name: before.get(name, now) for name in alarms}
        for name in before.keys() - set(alarms):
            log.warning("drift: %s is as in the reference again", name)
            self._announce("drift_ended", name, now)
        for name in self._since.keys() - before.keys():
            log.warning("drift: %s is no longer as in the reference", name)
            self._announce("drift_alarm", name, now)

    def _announce(self, kind: str, signal: str, now: float) -> None:
        self._told_at = -math.inf
        version = None if self._reference is None else self._reference.version
        event = {"event": kind, "signal": signal, "version": version, "at": now}
        self._outlets.announce(event)

    def _report(self, name: SignalName, found: Comparison | None) -> SignalReport:
        detector = self._monitor.detectors.get(name)
        since = self._since.get(name)
        return SignalReport(
            signal=name,
            value=None if found is None else found.value,
            reference_value=None if found is None else found.reference_value,
            effect=None if found is None else found.effect,
            p_value=None if found is None else found.p_value,
            statistic=0.0 if detector is None else detector.statistic,
            threshold=self._threshold,
            alarm=detector is not None and detector.alarm,
            since=None if since is None else datetime.fromtimestamp(since, UTC),
        )

    def _classes(self) -> tuple[ClassReport, ...]:
        rows = zip(self._settings.classes, *self._monitor.class_shares(), strict=True)
        return tuple(
            ClassReport(
                label=label, reference=float(before), recent=float(now), prior=min(1.0, float(p))
            )
            for label, before, now, p in rows
        )
