"""Whether inference works: a canary through the threads and the session that answer, again and again.

It knows nothing of HTTP. The canary is the self-test of the version that serves, so it also notices wrong and
non-finite outputs. It goes before every job that waits: a full queue is not death.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from adaptsvc.metrics import Observer

log = logging.getLogger(__name__)
NOT_YET = "no canary inference has come back yet"


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """How often a canary flies, and how long it may take."""

    interval_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the last canary came to, and when; `problem` is empty when it was well."""

    at_s: float
    problem: str


class Inference(Protocol):
    """What a canary needs of the engine."""

    def check(self) -> Future[None]:
        """Run the self-test before anything that waits."""
        ...

    def busy_s(self) -> float:
        """How long the longest inference call has run so far."""
        ...

    @property
    def running(self) -> bool:
        """Whether its threads are there."""
        ...


def judge(last: Sighting, limits: CanaryLimits, busy_s: float, now: float) -> str:
    """Why inference is not alive; empty when it is.

    Args:
        last: the last canary.
        limits: of canaries.
        busy_s: how long the longest inference call has run so far.
        now: on the clock of the sighting.

    Example:
        >>> limits = CanaryLimits(interval_s=5, timeout_s=10)
        >>> judge(Sighting(100.0, ""), limits, busy_s=0.1, now=104.0)
        ''
        >>> judge(Sighting(100.0, ""), limits, busy_s=11.0, now=104.0)
        'an inference call has not come back for 11 s, 10 s are allowed'
    """
    if busy_s > limits.timeout_s:
        return (
            f"an inference call has not come back for {busy_s:.0f} s, "
            f"{limits.timeout_s:g} s are allowed"
        )
    if last.problem:
        return last.problem
    if now - last.at_s > 2 * (limits.interval_s + limits.timeout_s):
        return f"no canary has come back for {now - last.at_s:.0f} s"
    return ""


class Health:
    """Sends canaries in a thread of its own, and says what they came to.

    Args:
        inference: what they go through.
        limits: of canaries.
        observer: told what each came to.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        inference: Inference,
        limits: CanaryLimits,
        *,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inference = inference
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._last = Sighting(clock(), "")
        self._flown = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)

    def start(self) -> None:
        """Begin to send them."""
        self._thread.start()

    def close(self) -> None:
        """Send no more; harmless twice."""
        self._stop.set()

    def problem(self) -> str:
        """Why inference is not alive; empty when it is."""
        if not self._inference.running:
            return "a thread that infers has ended"
        return judge(self._last, self._limits, self._inference.busy_s(), self._clock())

    def unproven(self) -> str:
        """Why inference is not known to work; empty once a canary has come back well."""
        return self.problem() or ("" if self._flown else NOT_YET)

    def fly(self) -> None:
        """Send one canary, and wait for it."""
        check = self._inference.check()
        try:
            check.result(self._limits.timeout_s)
            problem, self._flown = "", True
        except TimeoutError:
            check.cancel()  # those of a long stall would all be run after it, before any request
            problem = f"a canary inference took over {self._limits.timeout_s:g} s"
        except (
            Exception
        ) as exc:  # whatever it is, that is the finding; the next canary flies all the same
            problem = f"a canary inference failed: {exc}"
        if problem != self._last.problem:
            log.error("%s", problem) if problem else log.info("canary inferences come back again")
        self._last = Sighting(self._clock(), problem)
        self._observer.inference_alive(not problem)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.fly()
            self._stop.wait(self._limits.interval_s)
