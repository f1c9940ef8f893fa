"""The background worker: images from the stream to the window, rounds, publication, checkpoint, commit.

It knows nothing of HTTP. One loop: `run_once(now)` reads what came and runs a round when it is due; `run`
repeats it. The order is always work, checkpoint, commit: a message is acknowledged only when a checkpoint
that counts it is on disk, and a worker killed anywhere reads again what it had not checkpointed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adaptsvc import checkpoint as checkpoints
from adaptsvc import rounds
from adaptsvc.checkpoint import Checkpoint
from adaptsvc.config import Settings
from adaptsvc.errors import StateUnavailableError, VersionError
from adaptsvc.images import Preprocess
from adaptsvc.intake import IMAGES, LABELS, Intake, Source
from adaptsvc.learner import Learner
from adaptsvc.metrics import Observer
from adaptsvc.publishing import Publisher
from adaptsvc.rounds import Round, Rounds, StopRound
from adaptsvc.trust.patience import Patience
from adaptsvc.types import Float32, UInt8
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.round_record import Kind
from adaptsvc.versions.store import Store
from streams.log import Consumer, Log
from streams.message import Message, NewMessage, TopicPartition

log = logging.getLogger(__name__)
EVENTS = "model.events"
MEMBER = "worker"
POLL_MESSAGES, POLL_BYTES, POLL_TIMEOUT_S = 64, 32 * 2**20, 0.5
RETRY_ROUND_S = 5.0


@dataclass(frozen=True, slots=True)
class Tick:
    """What one turn of the loop did."""

    received: int
    dead_letters: int
    round: Round | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker works with."""

    log: Log
    store: Store
    pointer: Pointer
    learner: Learner
    publisher: Publisher
    preprocess: Preprocess
    observer: Observer
    enforce_retention: Callable[[float], object] = lambda _now: None
    check_lease: Callable[[], None] = lambda: None
    prune: Callable[[], object] = lambda: None


class Worker:
    """The loop. Use `run`, or `run_once` under test.

    Args:
        parts: what it works with.
        settings: read once, by the entry point.
        stop: set to end the loop after the step at hand.
    """

    def __init__(self, parts: Parts, settings: Settings, stop: threading.Event) -> None:
        self._parts = parts
        self._settings = settings
        self._stop = stop
        self._consumer = parts.log.consumer(settings.stream.group, [IMAGES, LABELS], member=MEMBER)
        source = Source(parts.log, parts.preprocess, self._zero_shot)
        self._intake = Intake(source, settings, parts.observer)
        works_with = rounds.Parts(
            parts.store, parts.pointer, parts.learner, parts.publisher, parts.observer
        )
        self._rounds = Rounds(works_with, settings, between_steps=self._between_steps)
        self._checkpointed_at = self._retained_at = self._no_round_before = float("-inf")
        self._dirty = False

    def run(self) -> None:
        """Restore, then loop until told to stop; checkpoint and commit before returning."""
        self.restore()
        while not self._stop.is_set():
            self.run_once(time.time())
        if self._dirty:
            self._checkpoint(time.time())
        self._consumer.close()

    def dismiss(self) -> None:
        """Send the ranks home that help with rounds."""
        self._parts.learner.dismiss()

    def restore(self) -> None:
        """Go on where the last checkpoint left off."""
        saved = checkpoints.load(self._settings.checkpoint)
        self._intake.restore(saved)
        self._rounds.count, self._rounds.patience = saved.rounds, Patience(**saved.patience)
        _seek(self._consumer, self._intake.offsets)
        if saved.rounds or saved.offsets:
            log.info(
                "restored: %d images in the window, %d labels, %d rounds",
                len(self._intake.window),
                len(self._intake.labels),
                saved.rounds,
            )

    def run_once(self, now: float) -> Tick:
        """One turn: read, learn when a round is due, checkpoint and commit when something is new.

        Raises:
            LeaseLostError: another worker writes by now; this one has to start again, and wait.
        """
        self._parts.check_lease()
        messages = self._poll()
        dead = self._receive(messages)
        self._parts.observer.waiting(lag := self._consumer.lag())
        if not lag and (expired := self._intake.expire(now)):
            dead, self._dirty = dead + expired, True
        if now - self._retained_at >= self._settings.stream.retention_interval_s:
            self._retained_at = now
            self._parts.enforce_retention(now)
            self._prune()
        kind = self._rounds.due(self._intake) if now >= self._no_round_before else None
        done = None if kind is None else self._round(kind, now)
        if done is not None or (self._dirty and self._interval_over(now)):
            self._checkpoint(now)
        if done is not None and done.outcome == "promoted":
            self._prune()
        return Tick(len(messages), dead, done)

    def _prune(self) -> None:
        """Delete old versions; what cannot be deleted now is tried again with the next retention."""
        try:
            self._parts.prune()
        except (StateUnavailableError, VersionError, OSError) as exc:
            log.warning("old versions were not all deleted: %s", exc)

    def _zero_shot(self, pixels: UInt8) -> tuple[Float32, Float32]:
        return self._parts.learner.zero_shot(pixels, self._settings.learn.weight_temperature)

    def _poll(self) -> Sequence[Message]:
        """What came; nothing while the window has no room that a round has not to make first."""
        if not (wanted := self._intake.wanted):
            self._consumer.heartbeat()
            return ()
        return self._consumer.poll(
            max_messages=min(POLL_MESSAGES, wanted), max_bytes=POLL_BYTES, timeout_s=POLL_TIMEOUT_S
        )

    def _interval_over(self, now: float) -> bool:
        return now - self._checkpointed_at >= self._settings.learn.checkpoint_interval_s

    def _receive(self, messages: Sequence[Message]) -> int:
        if not messages:
            return 0
        self._dirty = True
        return self._intake.receive(messages)

    def _round(self, kind: Kind, now: float) -> Round | None:
        """One round; None when it was stopped, or the shared state did not answer."""
        started = time.perf_counter()
        try:
            done = self._rounds.run(kind, self._intake)
        except StopRound:
            self._gave_up(kind, time.perf_counter() - started)
            return None
        except (
            StateUnavailableError
        ) as exc:  # the images that made it due are still there: again later
            self._gave_up(kind, time.perf_counter() - started)
            self._no_round_before = now + time.perf_counter() - started + RETRY_ROUND_S
            log.info("the round starts again in a while: %s", exc)
            return None
        self._observe(done)
        self._parts.log.append(EVENTS, [NewMessage(str(done.version), _event(done, now))])
        log.info(
            "round %d, %s: %s, version %d serves (%d images, %.1f s) %s",
            done.number,
            done.method,
            done.outcome,
            done.version,
            done.images,
            done.seconds,
            ", ".join(done.reasons),
        )
        return done

    def _gave_up(self, kind: Kind, seconds: float) -> None:
        self._parts.observer.round_ended(self._rounds.method(kind), "stopped", seconds, 0)

    def _between_steps(self) -> None:
        self._parts.check_lease()
        if self._stop.is_set():
            raise StopRound
        self._consumer.heartbeat()

    def _observe(self, done: Round) -> None:
        observer, evidence = self._parts.observer, done.evidence
        stepped = 0 if evidence is None else done.images
        observer.round_ended(done.method, done.outcome, done.seconds, stepped)
        if evidence is None:
            return
        verdict, temperature = evidence.verdict, evidence.calibration.temperature
        observer.judged(verdict.marginal_entropy_nats, verdict.agreement, temperature)
        if done.outcome == "promoted":
            observer.estimated(evidence.estimate.accuracy)

    def _checkpoint(self, now: float) -> None:
        window, labels = self._intake.references()
        checkpoints.save(
            self._settings.checkpoint,
            Checkpoint(
                offsets=self._intake.offsets,
                window=window,
                labels=labels,
                join=self._intake.join_references(),
                new_images=self._intake.new_images,
                new_labels=self._intake.new_labels,
                rounds=self._rounds.count,
                patience=dataclasses.asdict(self._rounds.patience),
            ),
        )
        self._consumer.commit(_partitions(self._intake.offsets))
        self._checkpointed_at, self._dirty = now, False
        self._parts.observer.checkpointed(now)


def _event(done: Round, now: float) -> bytes:
    """A round as JSON, for the topic of model events."""
    evidence = done.evidence
    content = {
        "event": done.outcome,
        "round": done.number,
        "method": done.method,
        "version": done.version,
        "parent": done.parent,
        "reasons": list(done.reasons),
        "action": done.action,
        "figures": {} if evidence is None else evidence.metrics,
        "round_seconds": done.seconds,
        "images": done.images,
        "at": now,
    }
    return json.dumps(content).encode()


def _partitions(offsets: Mapping[str, int]) -> dict[TopicPartition, int]:
    """Offsets by ``topic/partition`` to offsets by partition."""
    return {
        TopicPartition(name.rpartition("/")[0], int(name.rpartition("/")[2])): offset
        for name, offset in offsets.items()
    }


def _seek(consumer: Consumer, offsets: Mapping[str, int]) -> None:
    """Join the group, then go where the checkpoint says; what the first poll gave is read again."""
    consumer.poll(max_messages=1, max_bytes=1, timeout_s=0.0)
    start = {**consumer.committed(), **_partitions(offsets)}
    consumer.seek({p: offset for p, offset in start.items() if p in consumer.positions()})
