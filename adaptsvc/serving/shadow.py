"""A candidate answers a share of the live images, unseen: after each answer went out, in a thread of its own.

It knows nothing of HTTP, and decides nothing: it counts how the candidate's answers and times differ from
those of the version that serves, and the worker decides (see adaptsvc.trials). What was answered is put in a
bounded queue; what finds no room there, or comes while the service is slow, is dropped and counted. The
candidate is made ready as a swap makes the next version ready, and let go of when its trial is over.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np

from adaptsvc import memory
from adaptsvc.errors import AdaptsvcError, DiskFullError, InferenceError, StateError
from adaptsvc.metrics import Observer
from adaptsvc.serving.jobs import Decoded
from adaptsvc.serving.live import code_of, lower_priority
from adaptsvc.serving.predictor import Predictor
from adaptsvc.serving.sampling import is_chosen
from adaptsvc.shadow_record import Report, Trial
from adaptsvc.shadow_section import ShadowSettings
from adaptsvc.trust.shadow import Tally
from adaptsvc.types import Float32, UInt8
from adaptsvc.versions.shadow_desk import ShadowDesk

log = logging.getLogger(__name__)
REPORT_EVERY_S = 1.0
TIMED_EVERY = 4  # of so many images one is computed by what serves too, to compare times


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a shadow asks of its process.

    Attributes:
        desk: where the worker says what to try, and is told what was found.
        prepare: makes a version ready to answer.
        is_slow: whether answers take too long just now.
        own_priority: whether a thread may lower its priority without lowering that of a session's threads.
        poll_interval_s: how often the desk is asked.
    """

    desk: ShadowDesk
    prepare: Callable[[int], Predictor]
    is_slow: Callable[[], bool]
    own_priority: bool
    poll_interval_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """An image (3, H, W) that was answered, its embedding (D,), and the version that did."""

    pixels: UInt8
    embedding: Float32
    served: Predictor


class Shadow:
    """The queue of one process, and the thread that empties it.

    Args:
        around: its process.
        settings: how much is tried.
        observer: told what became of every chosen image.
        clock: monotonic seconds, for times.
        wall: Unix time, for the end of a trial.
    """

    def __init__(
        self,
        around: Surroundings,
        settings: ShadowSettings,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._around = around
        self._settings = settings
        self._observer = observer
        self._clock, self._wall = clock, wall
        self._name = uuid4().hex
        self._changed = threading.Condition()
        self._queue: deque[Answered] = deque()
        self._dropped = 0
        self._closing = False
        self._trial: Trial | None = None
        self._candidate: Predictor | None = None
        self._report = Report(version=-1, tally=Tally())
        self._told: Report | None = None
        self._polled_at = self._told_at = -math.inf
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin to look for a candidate."""
        self._thread.start()

    def close(self) -> None:
        """Stop; what waits is forgotten. Harmless twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def offer(self, served: Predictor, images: Sequence[Decoded], embeddings: Float32) -> None:
        """Have the candidate answer the chosen of these images later; returns at once and never fails.

        Args:
            served: the version that answered them.
            images: all with pixels.
            embeddings: theirs (N, D).
        """
        trial = self._trial
        if trial is None or self._candidate is None or served.manifest.id != trial.parent:
            return
        for image, embedding in zip(images, embeddings, strict=True):
            # Not by the id alone: that is how images are sampled to be learned from.
            if image.pixels is None or not is_chosen(
                f"shadow {image.image_id}", self._settings.fraction
            ):
                continue
            with self._changed:
                full = len(self._queue) >= self._settings.queue_images
                if full or self._around.is_slow():
                    self._dropped += 1
                    self._observer.shadowed("dropped")
                    continue
                self._queue.append(Answered(image.pixels, embedding, served))
                self._changed.notify()

    def run_once(self, timeout_s: float) -> None:
        """Look at the desk when it is time, answer one image, and tell what was found when it is time."""
        if self._is_over(self._polled_at, self._around.poll_interval_s):
            self._polled_at = self._clock()
            self._follow()
        answered = self._next(timeout_s)
        if answered is not None and self._candidate is not None:
            self._try(answered, self._candidate)
        if self._is_over(self._told_at, REPORT_EVERY_S):
            self._tell()

    def _run(self) -> None:
        if self._around.own_priority:
            lower_priority()
        while not self._closing:
            try:
                self.run_once(self._around.poll_interval_s)
            except Exception:  # a thread that ended would leave the candidate without a verdict
                log.exception("the candidate was not tried; requests go on, and it is tried again")
                time.sleep(self._around.poll_interval_s)
        self._let_go()

    def _next(self, timeout_s: float) -> Answered | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing, timeout_s)
            return self._queue.popleft() if self._queue else None

    def _follow(self) -> None:
        """Take up the candidate that the worker names, or let go of the one before."""
        try:
            trial = self._around.desk.read().trial
        except StateError as exc:
            log.debug("what to try is not known: %s", exc)
            return
        if trial is not None and self._wall() >= trial.until:  # no worker is there to end it
            trial = None
        if trial != self._trial:
            self._let_go()
            self._trial = trial
            self._report = Report(version=-1 if trial is None else trial.version, tally=Tally())
        if trial is not None and self._candidate is None and not self._report.problem:
            self._take(trial.version)

    def _take(self, version: int) -> None:
        try:
            candidate = self._around.prepare(version)
            candidate.self_test()  # also where it shares its session with the version that serves
        except (StateError, DiskFullError, OSError) as exc:  # it may well be sound: look again
            log.warning("version %d is not tried yet: %s", version, exc)
            return
        except AdaptsvcError as exc:
            self._fail(code_of(exc), exc)
            return
        self._candidate = candidate
        log.info("version %d is tried on live images; nobody sees its answers", version)

    def _let_go(self) -> None:
        """Free the candidate, and what waits for it."""
        with self._changed:
            self._trial = None
            held, self._candidate = self._candidate is not None, None
            self._queue.clear()
            self._dropped = 0
        if held:
            memory.give_back()

    def _try(self, answered: Answered, candidate: Predictor) -> None:
        """Compare both answers to one image; of some the times too."""
        tally = self._report.tally
        timed = tally.images % TIMED_EVERY == 0
        images = answered.pixels[None]
        served_s = 0.0
        try:
            # In turns, so that neither is always the one with a warm cache.
            if timed and tally.pairs % 2:
                served_s = self._seconds(answered.served, images)[1]
            embedding, candidate_s = self._seconds(candidate, images)
            if timed and not tally.pairs % 2:
                served_s = self._seconds(answered.served, images)[1]
        except Exception as exc:  # of ONNX Runtime, say: it would fail requests as well
            self._fail("inference", exc)
            return
        before = answered.served.scores(answered.embedding[None])[0][0]  # (C,)
        after = candidate.scores(embedding)[0][0]
        agreed = int(before.argmax()) == int(after.argmax())
        shift = float(after.max() - before.max())
        one = Tally(1, int(agreed), shift, abs(shift))
        if timed and candidate_s > 0 and served_s > 0:
            one += Tally(
                pairs=1,
                log_ratio=math.log(candidate_s / served_s),
                candidate_s=candidate_s,
                served_s=served_s,
            )
        self._report = self._report.model_copy(update={"tally": tally + one})
        self._observer.shadowed("agreed" if agreed else "differed")

    def _seconds(self, predictor: Predictor, images: UInt8) -> tuple[Float32, float]:
        """Embeddings (N, D), and how long they took."""
        started = self._clock()
        embeddings = predictor.encoder.embed(images)
        seconds = self._clock() - started
        if not np.isfinite(embeddings).all():
            raise InferenceError(f"version {predictor.manifest.id} gave NaN or Inf")
        return embeddings, seconds

    def _fail(self, code: str, exc: Exception) -> None:
        """The worker has to know, and refuses it."""
        log.error("version %d cannot be tried: %s", self._report.version, exc)
        self._observer.shadowed("failed")
        self._report = self._report.model_copy(update={"problem": code})
        self._candidate = None
        self._told_at = -math.inf

    def _tell(self) -> None:
        """Say what was found, where there is something new."""
        self._told_at = self._clock()
        if self._trial is None:
            return
        tally = replace(self._report.tally, dropped=self._dropped)
        report = self._report.model_copy(update={"tally": tally})
        if report == self._told:
            return
        try:
            self._around.desk.tell(self._name, report)
            self._told = report
        except (StateError, DiskFullError) as exc:
            log.debug("the worker is not told yet: %s", exc)

    def _is_over(self, since_s: float, interval_s: float) -> bool:
        return self._clock() - since_s >= interval_s
