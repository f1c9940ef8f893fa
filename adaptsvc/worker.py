"""The background worker: images from the stream to the window, rounds, publication, checkpoint, commit.

It knows nothing of HTTP. One loop: `run_once(now)` reads what came and runs a round when it is due; `run`
repeats it. The order is always work, checkpoint, commit: a message is acknowledged only when a checkpoint
that counts it is on disk, and a worker killed anywhere reads again what it had not checkpointed.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptsvc import checkpoint as checkpoints
from adaptsvc.adapt.window import Sample, Window
from adaptsvc.checkpoint import Checkpoint, SampleReference
from adaptsvc.config import Settings
from adaptsvc.errors import ImageError, NonFiniteStepError, ParityError
from adaptsvc.images import ImageLimits, Preprocess, decode
from adaptsvc.learner import Learner
from adaptsvc.metrics import Observer
from adaptsvc.publishing import Decision, Publisher, RoundContext
from adaptsvc.types import UInt8
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.store import VersionStore
from streams.log import Consumer, Log
from streams.message import Message, NewMessage, TopicPartition

log = logging.getLogger(__name__)
IMAGES, DEAD_LETTERS, EVENTS = "images.unlabeled", "images.deadletter", "model.events"
MEMBER = "worker"
POLL_MESSAGES, POLL_BYTES, POLL_TIMEOUT_S = 64, 32 * 2**20, 0.5


class StopRound(Exception):  # noqa: N818 - a signal, not an error
    """The worker was told to stop in the middle of a round."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What one turn of the loop did."""

    received: int
    dead_letters: int
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker works with."""

    log: Log
    store: VersionStore
    pointer: Pointer
    learner: Learner
    publisher: Publisher
    preprocess: Preprocess
    observer: Observer
    enforce_retention: Callable[[float], object] = lambda _now: None


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
        self._limits = ImageLimits(
            settings.images.max_bytes, settings.images.max_pixels, settings.images.max_side
        )
        self._stop = stop
        self._window = Window(settings.learn.window_images)
        self._consumer = parts.log.consumer(settings.stream.group, [IMAGES], member=MEMBER)
        self._offsets: dict[str, int] = {}
        self._new_images = 0
        self._rounds = 0
        self._checkpointed_at = self._retained_at = float("-inf")
        self._dirty = False

    def run(self) -> None:
        """Restore, then loop until told to stop; checkpoint and commit before returning."""
        self.restore()
        while not self._stop.is_set():
            self.run_once(time.time())
        if self._dirty:
            self._checkpoint(time.time())
        self._consumer.close()

    def restore(self) -> None:
        """Go on where the last checkpoint left off."""
        saved = checkpoints.load(self._settings.checkpoint)
        self._offsets = dict(saved.offsets)
        self._new_images, self._rounds = saved.new_images, saved.rounds
        messages = [
            message
            for reference in saved.window
            for message in self._parts.log.read(
                TopicPartition(reference.topic, reference.partition),
                offset=reference.offset,
                limit=1,
            )
        ]
        for start in range(0, len(messages), POLL_MESSAGES):
            self._take(messages[start : start + POLL_MESSAGES])
        if lost := len(saved.window) - len(self._window):
            log.warning("%d images of the window are no longer in the stream", lost)
        _seek(self._consumer, self._offsets)
        if saved.rounds or saved.offsets:
            log.info(
                "restored: %d images in the window, %d rounds", len(self._window), saved.rounds
            )

    def run_once(self, now: float) -> Tick:
        """One turn: read, learn when a round is due, checkpoint and commit when something is new."""
        wanted = min(POLL_MESSAGES, max(1, self._settings.learn.round_images - self._new_images))
        messages = self._consumer.poll(
            max_messages=wanted, max_bytes=POLL_BYTES, timeout_s=POLL_TIMEOUT_S
        )
        dead = self._receive(messages) if messages else 0
        self._parts.observer.waiting(self._consumer.lag())
        if now - self._retained_at >= self._settings.stream.retention_interval_s:
            self._retained_at = now
            self._parts.enforce_retention(now)
        decision = self._round(now) if self._due() else None
        if decision is not None or (self._dirty and self._interval_over(now)):
            self._checkpoint(now)
        return Tick(len(messages), dead, decision)

    def _due(self) -> bool:
        learn = self._settings.learn
        enough = min(learn.round_images, learn.window_images)
        return self._new_images >= learn.round_images and len(self._window) >= enough

    def _interval_over(self, now: float) -> bool:
        return now - self._checkpointed_at >= self._settings.learn.checkpoint_interval_s

    def _receive(self, messages: Sequence[Message]) -> int:
        """New messages into the window or to the dead letters; their offsets are ours from here on."""
        known = {sample.image_id for sample in self._window.samples}
        dead = self._take(messages)
        fresh = {message.key for message in messages} - known - {m.key for m, _ in dead}
        self._new_images += len(fresh)
        if dead:
            self._bury(dead)
        for message in messages:
            self._offsets[f"{message.topic}/{message.partition}"] = message.offset + 1
        self._dirty = True
        self._count(len(fresh), len(dead), len(messages))
        return len(dead)

    def _take(self, messages: Sequence[Message]) -> list[tuple[Message, ImageError]]:
        """Decode messages into the window; those that are no images come back with the reason."""
        good: list[tuple[Message, UInt8]] = []
        bad: list[tuple[Message, ImageError]] = []
        for message in messages:
            try:
                good.append((message, decode(message.value, self._parts.preprocess, self._limits)))
            except ImageError as exc:
                bad.append((message, exc))
        if good:
            pixels = np.stack([image for _, image in good])
            temperature = self._settings.learn.weight_temperature
            probabilities, weights = self._parts.learner.zero_shot(pixels, temperature)
            for (message, image), p, weight in zip(good, probabilities, weights, strict=True):
                source = (message.topic, message.partition, message.offset)
                self._window.add(Sample(message.key, image, p, float(weight), source))
        return bad

    def _bury(self, dead: Sequence[tuple[Message, ImageError]]) -> None:
        """Dead letters keep the bytes and headers, and say why and from where."""
        letters = [
            NewMessage(
                message.key,
                message.value,
                {
                    **message.headers,
                    "reason": type(error).__name__.encode(),
                    "error": str(error).encode(),
                    "origin-topic": message.topic.encode(),
                    "origin-partition": str(message.partition).encode(),
                    "origin-offset": str(message.offset).encode(),
                },
            )
            for message, error in dead
        ]
        self._parts.log.append(DEAD_LETTERS, letters)
        log.warning("%d messages are no images and went to %s", len(letters), DEAD_LETTERS)

    def _count(self, learned: int, dead: int, messages: int) -> None:
        observer = self._parts.observer
        observer.received(IMAGES, "learned", learned)
        observer.received(IMAGES, "dead_letter", dead)
        observer.received(IMAGES, "duplicate", messages - learned - dead)

    def _round(self, now: float) -> Decision | None:
        """Learn from the window, from the version that serves now; None when stopped or failed."""
        started = time.perf_counter()
        method = self._settings.learn.objective
        self._rounds += 1
        context = self._context()
        log.info("round %d starts from version %d", self._rounds, context.parent.manifest.id)
        try:
            decision = self._learn(context)
        except StopRound:
            self._rounds -= 1
            self._parts.observer.round_ended(method, "stopped", time.perf_counter() - started, 0)
            return None
        except (NonFiniteStepError, ParityError) as exc:
            log.error("round %d failed: %s; the serving version stays", self._rounds, exc)
            self._parts.observer.round_ended(method, "failed", time.perf_counter() - started, 0)
            self._new_images = 0
            return None
        self._new_images = 0
        seconds = time.perf_counter() - started
        self._report(decision, context, seconds, now)
        return decision

    def _context(self) -> RoundContext:
        current = self._parts.pointer.read().version
        assert current is not None, "the worker publishes version 0 before it starts"
        parent = self._parts.store.load(current)
        seed = self._settings.learn.seed * 1_000_003 + self._rounds
        return RoundContext(parent, self._window.samples, dict(self._offsets), seed)

    def _learn(self, context: RoundContext) -> Decision:
        learner = self._parts.learner
        learner.load(context.parent)
        candidate = learner.learn(
            context.samples, self._settings.learn, context.seed, between_steps=self._between_steps
        )
        self._between_steps()
        return self._parts.publisher.decide(learner, candidate, context)

    def _between_steps(self) -> None:
        if self._stop.is_set():
            raise StopRound
        self._consumer.heartbeat()

    def _report(
        self, decision: Decision, context: RoundContext, seconds: float, now: float
    ) -> None:
        verdict, observer = decision.verdict, self._parts.observer
        method, images = self._settings.learn.objective, len(context.samples)
        observer.round_ended(method, decision.outcome, seconds, images)
        observer.judged(verdict.marginal_entropy_nats, verdict.agreement, decision.temperature)
        event = {
            "event": decision.outcome,
            "version": decision.version,
            "parent": context.parent.manifest.id,
            "reasons": list(decision.reasons),
            "agreement": verdict.agreement,
            "marginal_entropy_nats": verdict.marginal_entropy_nats,
            "round_seconds": seconds,
            "images": images,
            "at": now,
        }
        self._parts.log.append(
            EVENTS, [NewMessage(str(decision.version), json.dumps(event).encode())]
        )
        log.info(
            "round %d: %s, version %d serves (%d images, %.1f s, agreement %.2f) %s",
            self._rounds,
            decision.outcome,
            decision.version,
            images,
            seconds,
            verdict.agreement,
            ", ".join(decision.reasons),
        )

    def _checkpoint(self, now: float) -> None:
        references = tuple(
            SampleReference(
                image_id=s.image_id, topic=s.source[0], partition=s.source[1], offset=s.source[2]
            )
            for s in self._window.samples
        )
        checkpoints.save(
            self._settings.checkpoint,
            Checkpoint(
                offsets=self._offsets,
                window=references,
                new_images=self._new_images,
                rounds=self._rounds,
            ),
        )
        self._consumer.commit(_partitions(self._offsets))
        self._checkpointed_at, self._dirty = now, False
        self._parts.observer.checkpointed(now)


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
