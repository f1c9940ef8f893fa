"""The background worker: images from the stream to the window, rounds, publication, checkpoint, commit.

It knows nothing of HTTP. One loop: `run_once(now)` reads what came and runs a round when it is due; `run`
repeats it. The order is always work, checkpoint, commit: a message is acknowledged only when a checkpoint
that counts it is on disk, and a worker killed anywhere reads again what it had not checkpointed. An image is
acknowledged only when a round has taken it, so that the stream keeps it until then.

Where a disk is full, the worker waits until there is room. What it could not finish it does again, from its
checkpoint; a checkpoint that found no room is written before anything else happens.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Sequence

from adaptsvc import checkpoint as checkpoints
from adaptsvc import resuming, rounds, tracing
from adaptsvc.checkpoint import Checkpoint
from adaptsvc.config import Settings
from adaptsvc.errors import DiskFullError, StateUnavailableError, VersionError
from adaptsvc.intake import Intake
from adaptsvc.resuming import places
from adaptsvc.rounds import Round, Rounds, StopRound
from adaptsvc.source import Source
from adaptsvc.streaming import EVENTS, IMAGES, LABELS
from adaptsvc.tracing import Sources
from adaptsvc.trust.patience import Patience
from adaptsvc.types import Float32, UInt8
from adaptsvc.versions.round_record import Kind
from adaptsvc.watching import Head, Outlets, Watch
from adaptsvc.worker_parts import Parts, Tick
from streams.errors import LogFullError
from streams.message import Message, NewMessage

log = logging.getLogger(__name__)
MEMBER = "worker"
POLL_MESSAGES, POLL_BYTES, POLL_TIMEOUT_S = 64, 32 * 2**20, 0.5
RETRY_S = 5.0


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
        self._intake, self._watch = self._new_intake(), self._new_watch()
        self._rounds = self._new_rounds()
        self._sources = Sources()
        self._checkpointed_at = self._retained_at = self._gave_up_at = float("-inf")
        self._round_pause_s = 0.0
        self._dirty = False  # something is new since the last checkpoint
        self._owes_checkpoint = False  # one was begun
        self._ready = self._full = False

    def run(self) -> None:
        """Restore, then loop until told to stop; checkpoint and commit before returning."""
        while not self._stop.is_set():
            try:
                if not self._ready:
                    self._go_on()
                self.run_once(time.time())
            except (DiskFullError, LogFullError) as exc:
                self._wait_for_room(exc)
        if self._dirty and (self._ready or self._owes_checkpoint):
            self._checkpoint(time.time())
        self._consumer.close()

    def dismiss(self) -> None:
        """Send the ranks home that help with rounds."""
        self._parts.learner.dismiss()

    def send_spans(self) -> None:
        """Send what was traced, for no longer than the settings allow."""
        self._parts.tracer.close(self._settings.tracing.flush_s)

    def restore(self) -> None:
        """Go on where the last checkpoint left off; without one, where the stream says."""
        found = checkpoints.find(self._settings.checkpoint)
        resuming.tell_of(found, self._settings.stream.group, self._parts.observer)
        self._consumer.poll(max_messages=1, max_bytes=1, timeout_s=0.0)  # joins the group
        last = found.checkpoint
        if not found.refused and resuming.is_overtaken(self._consumer, last):
            log.warning(
                "another worker has read on since this checkpoint; going on from where it stood"
            )
            last = Checkpoint()
        start = resuming.start(self._parts.log, self._consumer, last)
        offsets = {name: start.get(p, o) for name, p, o in places(last.offsets)}
        saved = last.model_copy(update={"offsets": offsets})
        self._intake, self._watch = self._new_intake(), self._new_watch()
        self._watch.restore(saved.drift)
        if self._intake.restore(saved):
            self._dirty = True
        self._rounds = self._new_rounds()
        self._rounds.count = saved.rounds
        if saved.task in ("", self._settings.task.digest):
            self._rounds.patience = Patience(**saved.patience)
        else:  # no round for these classes was refused, and none has learned from a label
            self._intake.new_labels = len(self._intake.labels)
        self._consumer.seek(start)  # what the first poll gave is read again
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
            DiskFullError: there is no room for the checkpoint.
            LogFullError: there is no room for the stream.
        """
        self._parts.check_lease()
        self._follow_task(now)
        if now < self._checkpointed_at:  # the clock was set back: its age would be negative
            self._dirty = True
        messages = self._poll()
        dead = self._receive(messages)
        self._watch.see(*self._intake.take_news(), now)
        self._parts.observer.waiting(lag := self._consumer.lag())
        if not lag and (expired := self._intake.expire(now)):
            dead, self._dirty = dead + expired, True
        if _is_over(now, self._retained_at, self._settings.stream.retention_interval_s):
            self._retained_at = now
            self._parts.enforce_retention(now)
            self._prune()
        paused = not _is_over(now, self._gave_up_at, self._round_pause_s)
        if paused and not self._intake.wanted:
            self._stop.wait(POLL_TIMEOUT_S)  # nothing to read, and no round to run
        kind = None if paused else self._rounds.due(self._intake)
        done = None if kind is None else self._round(kind, now)
        promoted = [done.version] if done is not None and done.outcome == "promoted" else []
        promoted += self._tried(now)
        for version in promoted:
            self._watch.rebuild(version, now)
        self._watch.tell(now)
        interval_s = self._settings.learn.checkpoint_interval_s
        if done is not None or (self._dirty and _is_over(now, self._checkpointed_at, interval_s)):
            self._checkpoint(now)
        if promoted:
            self._prune()
        return Tick(len(messages), dead, done)

    def _tried(self, now: float) -> list[int]:
        """Go on with the trials of candidates; the version that one of them let serve."""
        try:
            if (verdict := self._parts.try_candidates(now)) is None:
                return []
        except StateUnavailableError as exc:
            log.warning("the candidate on trial is looked at again in a while: %s", exc)
            return []
        self._dirty = True
        action = self._rounds.tried(verdict)
        event = {"event": f"shadow_{verdict.outcome}", **verdict.model_dump(), "action": action}
        self._append(str(verdict.version), json.dumps(event).encode())
        return [verdict.version] if verdict.outcome == "promoted" else []

    def _prune(self) -> None:
        """Delete old versions; what cannot be deleted now is tried again with the next retention."""
        try:
            self._parts.prune()
        except (StateUnavailableError, VersionError, OSError) as exc:
            log.warning("old versions were not all deleted: %s", exc)

    def _follow_task(self, now: float) -> None:
        """Work for the classes that serve, as after a start: what was learned about others is void.

        Images stay, and get zero-shot answers anew; labels stay whose names are still classes.
        """
        task = self._parts.task(self._settings.task)
        if task == self._settings.task:
            return
        self._checkpoint(now)
        self._parts.learner.work_for(task)
        self._settings = self._settings.working_for(task)
        self.restore()
        self._dirty = True
        log.warning("this worker works for %d other classes from now on", len(task.classes))

    def _new_rounds(self) -> Rounds:
        parts = self._parts
        works_with = rounds.Parts(
            parts.store, parts.pointer, parts.learner, parts.publisher, parts.observer
        )
        return Rounds(works_with, self._settings, between_steps=self._between_steps)

    def _new_intake(self) -> Intake:
        source = Source(self._parts.log, self._parts.preprocess, self._zero_shot)
        return Intake(source, self._settings, self._parts.observer)

    def _zero_shot(self, pixels: UInt8) -> tuple[Float32, Float32, Float32]:
        return self._parts.learner.look(pixels, self._settings.learn.weight_temperature)

    def _new_watch(self) -> Watch:
        learner = self._parts.learner
        head = Head(learner.zero_shot_embeddings, learner.clip.logit_scale)
        outlets = Outlets(
            write=self._parts.tell_drift,
            announce=lambda event: self._append(str(event["version"]), json.dumps(event).encode()),
            serving=self._serving,
        )
        return Watch(self._settings, head, outlets)

    def _serving(self) -> int | None:
        try:
            return self._parts.pointer.read().version
        except StateUnavailableError:
            return None

    def _poll(self) -> Sequence[Message]:
        """What came; nothing while the window has no room that a round has not to make first."""
        if not (wanted := self._intake.wanted):
            self._consumer.heartbeat()
            return ()
        return self._consumer.poll(
            max_messages=min(POLL_MESSAGES, wanted), max_bytes=POLL_BYTES, timeout_s=POLL_TIMEOUT_S
        )

    def _receive(self, messages: Sequence[Message]) -> int:
        if not messages:
            return 0
        self._dirty = True
        links = self._sources.add(message.headers for message in messages)
        with self._parts.tracer.begin("receive", links=links) as span:
            dead = self._intake.receive(messages)
            span.describe(
                {"messaging.batch.message_count": len(messages), "adaptsvc.dead_letters": dead}
            )
        return dead

    def _round(self, kind: Kind, now: float) -> Round | None:
        """One round, traced; None when it was stopped, or the shared state did not answer."""
        facts = {"adaptsvc.round.kind": kind, "adaptsvc.outcome": "stopped"}
        links = self._sources.known
        with self._parts.tracer.begin("round", links=links, attributes=facts) as span:
            done = self._try_round(kind, now)
            if done is not None:
                span.describe(done.facts)
                if done.outcome == "failed":
                    span.fail("failed")
                self._sources.forget()
        return done

    def _try_round(self, kind: Kind, now: float) -> Round | None:
        started = time.perf_counter()
        try:
            done = self._rounds.run(kind, self._intake)
        except StopRound:
            self._gave_up(kind, time.perf_counter() - started)
            return None
        except (StateUnavailableError, DiskFullError) as exc:  # what made it due is still there
            seconds = time.perf_counter() - started
            self._gave_up(kind, seconds)
            self._gave_up_at, self._round_pause_s = now, seconds + RETRY_S
            log.error("the round starts again in a while: %s", exc)
            if isinstance(exc, DiskFullError):
                self._tell_full(True)
            return None
        self._tell_full(False)
        self._observe(done)
        self._announce(done, now)
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

    def _announce(self, done: Round, now: float) -> None:
        """Tell of a round on the stream."""
        self._append(str(done.version), done.event(now))

    def _append(self, key: str, event: bytes) -> None:
        """An event; what it tells of counts even where there is no room to tell of it."""
        try:
            self._parts.log.append(EVENTS, [NewMessage(key, event, tracing.headers())])
        except LogFullError as exc:
            log.error("nothing tells of %s: %s", event.decode(), exc)

    def _gave_up(self, kind: Kind, seconds: float) -> None:
        self._parts.observer.round_ended(self._rounds.method(kind), "stopped", seconds, 0)

    def _between_steps(self) -> None:
        self._parts.check_lease()
        self._parts.give_way(self._stop)
        if self._stop.is_set() or self._parts.is_asked():
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

    def _wait_for_room(self, exc: Exception) -> None:
        if not self._full:
            log.error("%s; this worker waits until there is room", exc)
        self._tell_full(True)
        self._ready = False
        self._stop.wait(RETRY_S)

    def _tell_full(self, full: bool) -> None:
        """Tell once that the disk is full, and once that it is no more."""
        if full != self._full:
            self._full = full
            self._parts.observer.disk_full(full)
            if not full:
                log.warning("there is room again: this worker goes on")

    def _go_on(self) -> None:
        """Write the checkpoint that found no room, or begin again from the last one."""
        if self._owes_checkpoint:
            self._checkpoint(time.time())
        else:
            self._dirty = False  # what was half done is read again
            self.restore()
        self._ready = True
        self._tell_full(False)

    def _checkpoint(self, now: float) -> None:
        self._parts.check_lease()
        self._owes_checkpoint = True
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
                task=self._settings.task.digest,
                drift=self._watch.save(),
            ),
        )
        self._consumer.commit({p: offset for _, p, offset in places(self._intake.settled)})
        self._checkpointed_at, self._dirty, self._owes_checkpoint = now, False, False
        self._parts.observer.checkpointed(now)


def _is_over(now: float, since: float, interval_s: float) -> bool:
    """Whether so much time has passed; a clock that was set back ends every interval."""
    return not 0 <= now - since < interval_s
