"""A share of the images that were answered, published so that the worker learns from them.

A request only puts an image in a queue in memory; one thread per process opens the log and writes. What
cannot be kept is dropped and counted: sampling neither delays nor fails an answer. It knows nothing of HTTP,
of models, or of which log it is: whoever makes a `Sampler` says how the log is opened.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from adaptsvc import tracing
from adaptsvc.image_headers import read_header
from adaptsvc.metrics import Observer, SampleOutcome
from adaptsvc.streaming import IMAGES
from streams.errors import InvalidMessageError
from streams.log import Log
from streams.message import NewMessage

log = logging.getLogger(__name__)
SHA256 = re.compile("[0-9a-f]{64}")
BATCH_IMAGES = 16  # that share one flush to the disk
HASH_DIGITS, HASHES = (
    16,
    2.0**64,
)  # so many hexadecimal digits of the image id, and what they can say


@dataclass(frozen=True, slots=True)
class SamplingLimits:
    """What one process publishes and keeps.

    Attributes:
        fraction: share of the images, in [0, 1].
        per_second: images a second, above 0.
        queue_images: images that wait or are being written.
        queue_bytes: their bytes.
    """

    fraction: float
    per_second: float
    queue_images: int
    queue_bytes: int


@dataclass(frozen=True, slots=True)
class Answered:
    """An encoded image that was answered, by the id of its answer, when (Unix time), and in which trace."""

    image_id: str
    data: bytes
    at_s: float
    trace: dict[str, bytes]


class Allowance:
    """So many a second on average; what a second allows, and at least one, may come at once.

    Args:
        per_second: above 0.

    Example:
        >>> allowance = Allowance(2.0)
        >>> [allowance.take(now_s) for now_s in (0.0, 0.1, 0.2, 0.6, 0.7)]
        [True, True, False, True, False]
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = self._left = max(1.0, per_second)
        self._at_s = float("inf")

    def take(self, now_s: float) -> bool:
        """Whether one more may pass now."""
        gained = self._per_second * max(0.0, now_s - self._at_s)
        self._left, self._at_s = min(self._most, self._left + gained), now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


def is_chosen(image_id: str, fraction: float) -> bool:
    """Whether an image belongs to the share: the same answer everywhere and always.

    Args:
        image_id: hexadecimal SHA-256 of the image, or any other text.
        fraction: in [0, 1].

    Example:
        >>> [is_chosen("40" + "0" * 62, share) for share in (0.0, 0.25, 0.26, 1.0)]
        [False, False, True, True]
    """
    digest = (
        image_id if SHA256.fullmatch(image_id) else hashlib.sha256(image_id.encode()).hexdigest()
    )
    return int(digest[:HASH_DIGITS], 16) < fraction * HASHES


class Sampler:
    """The queue of one process, and the thread that empties it.

    Args:
        open_log: opens the stream; called in the thread, again after every failure.
        limits: of this process.
        observer: told what became of every chosen image.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        open_log: Callable[[], Log],
        limits: SamplingLimits,
        observer: Observer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_log = open_log
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._allowance = Allowance(limits.per_second)
        self._changed = threading.Condition()
        self._queue: deque[Answered] = deque()
        self._images, self._bytes = 0, 0  # waiting or being written
        self._closing = self._abandoned = self._failing = False
        self._thread = threading.Thread(target=self._run, name="publish-samples", daemon=True)

    def start(self) -> None:
        """Begin to publish; where no image is ever chosen there is no thread."""
        if self._limits.fraction > 0:
            self._thread.start()

    def offer(self, image_id: str, data: bytes) -> None:
        """Publish an image later if it is chosen and there is room; returns at once and never fails."""
        if not is_chosen(image_id, self._limits.fraction):
            return
        with self._changed:
            refusal = self._refusal(len(data))
            if refusal is None:
                self._queue.append(Answered(image_id, data, time.time(), tracing.headers()))
                self._images, self._bytes = self._images + 1, self._bytes + len(data)
                self._changed.notify()
        if refusal is not None:
            self._observer.sampled(refusal, 1)

    def close(self, timeout_s: float) -> None:
        """Take no more, publish what waits, give up what is left after the time; harmless twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        with self._changed:
            left, self._abandoned = 0 if self._abandoned else self._images, True
            self._queue.clear()
        if left:
            self._observer.sampled("stopping", left)
            log.warning("%d sampled images were not published within %.1f s", left, timeout_s)

    def _refusal(self, size_bytes: int) -> SampleOutcome | None:
        """Why an image cannot be taken now."""
        limits = self._limits
        if self._closing:
            return "stopping"
        full = self._images >= limits.queue_images
        if full or self._bytes + size_bytes > limits.queue_bytes:
            return "queue_full"
        return None if self._allowance.take(self._clock()) else "over_cap"

    def _run(self) -> None:
        """Write batches until told to stop; whatever fails costs a batch, and requests go on."""
        stream: Log | None = None
        while batch := self._next():
            published = 0
            try:
                stream = stream or self._open_log()
                published = _publish(stream, batch)
                self._succeeded()
            except Exception as exc:  # of any log: the next batch tries with a new one
                self._failed(exc)
                _let_go(stream)
                stream = None
            self._done(batch, published)
        _let_go(stream)

    def _next(self) -> list[Answered]:
        """The next images to write, once there are some; none when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return [self._queue.popleft() for _ in range(min(BATCH_IMAGES, len(self._queue)))]

    def _done(self, batch: Sequence[Answered], published: int) -> None:
        with self._changed:
            self._images -= len(batch)
            self._bytes -= sum(len(answered.data) for answered in batch)
            abandoned = self._abandoned  # then `close` has counted them
        if not abandoned:
            self._observer.sampled("published", published)
            self._observer.sampled("log_refused", len(batch) - published)

    def _succeeded(self) -> None:
        if self._failing:
            log.info("sampled images are published again")
        self._failing = False

    def _failed(self, exc: Exception) -> None:
        if not self._failing:
            log.error("sampled images are not published, requests go on: %s", exc)
        self._failing = True


def _publish(stream: Log, batch: Sequence[Answered]) -> int:
    """Append a batch; how many images of it the log took."""
    messages = [_message(answered) for answered in batch]
    try:
        stream.append(IMAGES, messages)
        return len(messages)
    except InvalidMessageError:  # one is too large for the topic: the others need not go with it
        return sum(_takes(stream, message) for message in messages)


def _takes(stream: Log, message: NewMessage) -> bool:
    try:
        stream.append(IMAGES, [message])
    except InvalidMessageError as exc:
        log.warning("a sampled image was left out: %s", exc)
        return False
    return True


def _message(answered: Answered) -> NewMessage:
    captured = datetime.fromtimestamp(answered.at_s, UTC).isoformat(timespec="milliseconds")
    headers = {
        "content-type": f"image/{read_header(answered.data).format.lower()}".encode(),
        "image-id": answered.image_id.encode(),
        "source": b"serving",
        "captured-at": captured.encode(),
        **answered.trace,
    }
    return NewMessage(answered.image_id, answered.data, headers)


def _let_go(stream: Log | None) -> None:
    if stream is not None:
        with suppress(Exception):  # a broken log may fail here too; there is nothing left to lose
            stream.close()
