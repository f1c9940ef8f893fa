"""Encoded images to embeddings and answers, in threads: a pool that decodes, and a few that infer.

It knows nothing of HTTP. What is decided, which jobs make a batch and whether more may come, is in
`adaptsvc.serving.batching`; here are the threads, the lock and the clock. A batch is answered by one
version: the predictor is read once, and all of the batch's jobs are computed by it. A job whose future was
cancelled is not computed.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from adaptsvc import tracing
from adaptsvc.errors import ImageError, InferenceError, NotAnImageError
from adaptsvc.images import Preprocess
from adaptsvc.metrics import Observer
from adaptsvc.serving.batching import Admission, BatchLimits, Refusal, choose
from adaptsvc.serving.jobs import Decoded, Finish, Item, Job, Shown
from adaptsvc.serving.predictor import Predictor
from adaptsvc.tracing import VERSION
from adaptsvc.types import Float32, UInt8

log = logging.getLogger(__name__)
Decode: TypeAlias = Callable[[bytes, Preprocess], UInt8]


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much at once.

    Attributes:
        decoders: threads that decode.
        inferences: inference calls at once, by one session.
        queue_images: images inside, waiting or being computed.
        batch: what one call may hold.
    """

    decoders: int
    inferences: int
    queue_images: int
    batch: BatchLimits


class FullError(Exception):
    """A job that was not admitted."""

    def __init__(self, refusal: Refusal, inside: int) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.inside = inside


class Engine:
    """The threads. `start` it, `submit` to it, `close` it.

    Args:
        current: the version that serves, or None.
        decode: bytes to pixels.
        limits: how much at once.
        observer: told how long the stages of every job took.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        current: Callable[[], Predictor | None],
        decode: Decode,
        limits: EngineLimits,
        *,
        observer: Observer,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._current, self._decode = current, decode
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._admission = Admission(limits.queue_images)
        self._pool = ThreadPoolExecutor(limits.decoders, thread_name_prefix="decode")
        self._changed = threading.Condition()
        self._ready: deque[Job] = deque()
        self._checks: deque[Future[None]] = deque()
        self._running: dict[int, float] = {}  # since when each thread is in an inference call
        self._closing = False
        self._shown: Shown | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"infer-{number}", daemon=True)
            for number in range(limits.inferences)
        ]

    def start(self) -> None:
        """Begin to infer."""
        for thread in self._threads:
            thread.start()

    def show(self, shown: Shown) -> None:
        """Have this called after each batch was answered; it returns at once and never fails."""
        self._shown = shown

    def close(self, timeout_s: float) -> None:
        """Take no more, and end when what is inside is done or the time is over; harmless twice."""
        deadline = self._clock() + timeout_s
        with self._changed:
            self._changed.wait_for(lambda: not self._admission.inside, timeout_s)
            self._closing = True
            self._changed.notify_all()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - self._clock()))

    def submit(self, items: Sequence[Item], finish: Finish, deadline_s: float) -> Future[Any]:
        """The answer to come. Cancel the future when nobody waits for it any more.

        Args:
            items: at least one.
            finish: makes the answer; called once, in a thread of the engine.
            deadline_s: how long the answer is worth waiting for.

        Raises:
            FullError: it is not admitted.
        """
        job = Job(items, finish, self._clock(), tracing.current())
        with self._changed:
            refusal = self._admission.admit(len(items), deadline_s, job.entered_s)
            if refusal is not None:
                raise FullError(refusal, self._admission.inside)
            self._observer.inside(self._admission.inside)
        job.future.add_done_callback(lambda _future: self._left(len(items)))
        self._pool.submit(self._prepare, job)
        return job.future

    def check(self) -> Future[None]:
        """The self-test of the version that serves, run before any job that waits; it is never refused.

        The future's exception is what went wrong; where no version serves there is nothing to go wrong.
        Cancel it when nobody waits for it any more, and it is not run.
        """
        future: Future[None] = Future()
        with self._changed:
            self._checks.append(future)
            self._changed.notify_all()
        return future

    @property
    def inside(self) -> int:
        """Images that wait or are being computed."""
        return self._admission.inside

    def busy_s(self) -> float:
        """How long the longest inference call that is running has taken so far."""
        since = min(list(self._running.values()), default=None)
        return 0.0 if since is None else self._clock() - since

    @property
    def running(self) -> bool:
        """Whether every thread that infers is there."""
        return all(thread.is_alive() for thread in self._threads)

    def _left(self, images: int) -> None:
        """A job's future is done: answered, failed, or cancelled by whoever waited."""
        with self._changed:
            self._admission.leave(images)
            self._observer.inside(self._admission.inside)  # in here, or an older count comes last
            if not self._admission.inside:
                self._changed.notify_all()  # `close` may wait for this

    def _prepare(self, job: Job) -> None:
        """Decode a job in the pool, then hand it to the threads that infer."""
        try:
            if (predictor := self._current()) is None:
                raise InferenceError("no version serves")
            started = self._clock()
            job.preprocess = predictor.base.preprocess
            job.images = []
            for item in job.items:
                if job.future.cancelled():
                    self._observer.spared(len(job.items))
                    return
                job.images.append(self._decoded(item, job.preprocess))
            job.ready_s = self._clock()
            job.decode_s += job.ready_s - started
        except Exception as exc:  # whatever the decoder did, this request fails and others go on
            job.fail(exc)
            return
        job.trace_decode(started)
        with self._changed:
            self._ready.append(job)
            self._changed.notify_all()  # `close` waits here too, and one wake-up could be its own

    def _decoded(self, item: Item, preprocess: Preprocess) -> Decoded:
        image_id = item.image_id or hashlib.sha256(item.data).hexdigest()
        try:
            if item.pixels is not None:
                return Decoded(image_id, _fitting(item.pixels, preprocess.size))
            return Decoded(image_id, self._decode(item.data, preprocess))
        except ImageError as exc:
            return Decoded(image_id, None, exc)

    def _run(self) -> None:
        """Batches, one after another, until told to stop."""
        while (batch := self._next()) is not None:
            self._check_now()
            if batch:
                self._answer(batch)
            del batch  # or its images would stay until the next one comes

    def _next(self) -> list[Job] | None:
        """The next batch, empty when there is something to check first; None at the end."""
        with self._changed:
            while not self._closing:
                if self._checks:
                    return []
                self._drop_cancelled()
                tickets = [job.ticket for job in self._ready]
                choice = choose(tickets, self._limits.batch, self._clock())
                if choice.take:
                    return [self._ready.popleft() for _ in range(choice.take)]
                self._changed.wait(None if tickets == [] else choice.wait_s)
        return None

    def _drop_cancelled(self) -> None:
        gone = [job for job in self._ready if job.future.cancelled()]
        for job in gone:
            self._ready.remove(job)
            self._observer.spared(len(job.items))

    def _answer(self, batch: Sequence[Job]) -> None:
        """Compute a batch by the one version that serves now."""
        jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
        self._observer.spared(
            sum(len(job.items) for job in batch) - sum(len(j.items) for j in jobs)
        )
        if not jobs:
            return
        taken = self._clock()
        try:
            if (predictor := self._current()) is None:
                raise InferenceError("no version serves")
            self._compute(predictor, jobs)
        except Exception as exc:  # of ONNX Runtime, say: the next batch is tried all the same
            log.exception("a batch of %d requests failed", len(jobs))
            for job in jobs:
                job.trace.measured("infer", taken, self._clock(), failure=type(exc).__name__)
                job.fail(InferenceError(f"inference failed: {exc}"))

    def _compute(self, predictor: Predictor, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.preprocess != predictor.base.preprocess:
                self._decode_again(job, predictor.base.preprocess)
        pixels = [image for job in jobs for image in job.pixels()]
        started = self._clock()
        embeddings = self._embed(predictor, pixels)
        infer_s = self._clock() - started
        with self._changed:
            self._admission.finished(sum(len(job.items) for job in jobs), started + infer_s)
        first = 0
        facts = {
            VERSION: predictor.manifest.id,
            "adaptsvc.batch_images": len(pixels),
            "adaptsvc.batch_requests": len(jobs),
        }
        for job in jobs:
            images = len(job.pixels())
            self._finish(job, predictor, embeddings[first : first + images])
            first += images
            self._observe(job, started, infer_s)
            job.trace.measured("queue", job.ready_s, started)
            job.trace.measured("infer", started, started + infer_s, facts)
        if self._shown is not None:
            answered = [image for job in jobs for image in job.images if image.pixels is not None]
            self._shown(predictor, answered, embeddings)

    def _decode_again(self, job: Job, preprocess: Preprocess) -> None:
        """A base with other preprocessing came between decoding and inference; it is rare."""
        job.images = [self._decoded(item, preprocess) for item in job.items]

    def _embed(self, predictor: Predictor, pixels: Sequence[UInt8]) -> Float32:
        """Unit embeddings (N, D), at most a batch in each call; checks come in between."""
        most = self._limits.batch.images
        calls = [pixels[start : start + most] for start in range(0, len(pixels), most)]
        found = []
        for call in calls:
            self._check_now()
            self._observer.batched(len(call))
            found.append(self._timed(partial(predictor.encoder.embed, np.stack(call))))
        embeddings = np.concatenate(found) if found else np.empty((0, 0), np.float32)
        if not np.isfinite(embeddings).all():
            raise InferenceError(f"version {predictor.manifest.id} gave NaN or Inf")
        return embeddings

    def _timed(self, call: Callable[[], Any]) -> Any:
        """Run an inference call; `busy_s` sees it meanwhile."""
        thread = threading.get_ident()
        self._running[thread] = self._clock()
        try:
            return call()
        finally:
            del self._running[thread]

    def _finish(self, job: Job, predictor: Predictor, embeddings: Float32) -> None:
        started, facts = self._clock(), {VERSION: predictor.manifest.id}
        try:
            with tracing.within(job.trace):
                answer = job.finish(predictor, job.images, embeddings)
        except Exception as exc:  # this one's answer cannot be made; the others of the batch can
            job.trace.measured("postprocess", started, self._clock(), facts, type(exc).__name__)
            job.fail(exc)
            return
        ended = self._clock()
        job.trace.describe(facts)  # before the answer ends the request's span
        job.future.set_result(answer)
        self._observer.stage("postprocess", ended - started)
        job.trace.measured("postprocess", started, ended, facts)

    def _observe(self, job: Job, started: float, infer_s: float) -> None:
        self._observer.stage("queue", max(0.0, started - job.entered_s - job.decode_s))
        self._observer.stage("decode", job.decode_s)
        self._observer.stage("infer", infer_s)

    def _check_now(self) -> None:
        """Run the checks that wait."""
        while self._checks:
            try:
                check = self._checks.popleft()
            except IndexError:  # another thread was faster
                return
            if not check.set_running_or_notify_cancel():
                continue
            try:
                if (predictor := self._current()) is not None:
                    self._timed(predictor.self_test)
            except Exception as exc:  # what a check finds is its result
                check.set_exception(exc)
            else:
                check.set_result(None)


def _fitting(pixels: UInt8, size: int) -> UInt8:
    if pixels.shape != (3, size, size):
        raise NotAnImageError(
            f"got pixels of shape {pixels.shape}; the model takes (3, {size}, {size})"
        )
    return pixels
