"""The version that answers now, and how the next one takes its place without a request noticing.

It knows nothing of HTTP. A request reads `current` once and uses that predictor to its end; a swap is one
assignment; the old predictor is freed when its last request lets go of it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol

from adaptsvc import memory
from adaptsvc.errors import AdaptsvcError, ModelError, StateError, VersionError
from adaptsvc.metrics import Observer, SwapFailure
from adaptsvc.serving.encoder import PROVIDERS, Runtime
from adaptsvc.serving.predictor import Predictor, build
from adaptsvc.versions.pointer import Current, Pointer
from adaptsvc.versions.store import Store

log = logging.getLogger(__name__)
# Beside requests that keep every core busy; 19 starves a swap. See docs/benchmarks.md.
SWAP_NICENESS, TEST_NICENESS = 5, 9
RETRY_S = 10.0


class Waits(Protocol):
    """What the thread that follows the pointer waits on; a `threading.Event` will do."""

    def wait(self, timeout: float) -> bool:
        """Wait so many seconds at most; true when it is time to stop."""
        ...


class Alarm:
    """A wait that can be cut short, for one more look at the pointer or for good."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self._stopped = False

    def wait(self, timeout: float) -> bool:
        """See `Waits`."""
        self._rung.wait(timeout)
        self._rung.clear()
        return self._stopped

    def ring(self) -> None:
        """Have a look now."""
        self._rung.set()

    def stop(self) -> None:
        """No more looks."""
        self._stopped = True
        self._rung.set()


class Live:
    """Follows the pointer.

    Args:
        store: where versions are.
        pointer: which one should serve.
        runtime: where inference runs.
        observer: told of swaps.
        batches: sizes that the first session runs before it serves,
        later_batches: and those after it, whose runs take time from requests.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        pointer: Pointer,
        runtime: Runtime,
        *,
        observer: Observer,
        batches: Sequence[int] = (),
        later_batches: Sequence[int] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._batches, self._later_batches = batches, later_batches
        self._store = store
        self._pointer = pointer
        self._runtime = runtime
        self._observer = observer
        self._clock = clock
        self._tester = self._beside_requests()
        self._handled = Current(None, -1)  # what was last acted on, well or not
        self._retry_at = float("inf")
        self._replaced = False  # a predictor was let go of; its memory can be given back
        self.current: Predictor | None = None
        self.refusal: str | None = None
        self.refusal_code: SwapFailure | None = None
        self.since = datetime.now(UTC)

    def poll(self) -> None:
        """Look at the pointer once; swap when it has moved. Whatever fails, the old version stays."""
        if self._replaced:
            self._replaced = False
            memory.give_back()  # 95 MB of replaced sessions after 50 swaps otherwise
        try:
            wanted = self._pointer.read()
        except (AdaptsvcError, OSError) as exc:
            self._refuse("pointer", f"the version pointer cannot be read: {exc}")
            return
        due = wanted != self._handled or self._clock() >= self._retry_at
        serving = self.current
        if serving is not None and serving.manifest.id == wanted.version:
            self._handled, self._retry_at = wanted, float("inf")
            self._accept()
        elif wanted.version is not None and due:
            self._handled, self._retry_at = wanted, float("inf")
            self._swap(wanted)

    def follow(self, stop: Waits, interval_s: float) -> None:
        """Poll until told to stop; runs in a thread of its own, at a lower priority."""
        if self._may_give_way:
            lower_priority()
        left_s = interval_s
        while not stop.wait(left_s):
            started = self._clock()
            try:
                self.poll()
            except Exception:  # a thread that ended would keep this version for good
                log.exception(
                    "the version pointer was not followed; the next look is in %g s", interval_s
                )
            left_s = max(0.0, interval_s - (self._clock() - started))  # a look every interval

    def _swap(self, wanted: Current) -> None:
        assert wanted.version is not None
        before, since, started = self.current, self.since, self._clock()
        try:
            predictor = self.prepare(wanted.version)
            seconds = self._clock() - started
            self.current, self.since = predictor, datetime.now(UTC)
            if _shares_session(predictor, before):
                self._tester.submit(predictor.self_test).result()
        except Exception as exc:  # whatever it is, requests go on with the version they had
            self.current, self.since = before, since
            self._retry_at = self._clock() + RETRY_S
            self._refuse(code_of(exc), f"version {wanted.version} was not taken: {exc}")
            return
        self._replaced = before is not None
        self._accept()
        self._observer.swapped(wanted.version, seconds)
        self._observer.fell_back(predictor.encoder.provider != PROVIDERS[self._runtime.device])
        log.info("version %d serves, ready in %.0f ms", wanted.version, 1000 * seconds)

    def prepare(self, version_id: int) -> Predictor:
        """A version ready to serve: a new session has passed the self-test, its first call, and is warm.

        A delta that is fed to the session that serves is ready once its digests, names and shapes are right:
        a forward pass of a large tower would take longer than all else together. It is tested right after,
        and the version before comes back if it fails.
        """
        version = self._store.load(version_id)
        base = self._store.base(version.manifest.base)
        predictor = build(base, version, self._runtime, before=self.current)
        if not _shares_session(predictor, self.current):
            predictor.self_test()
            predictor.warm(self._batches if self.current is None else self._later_batches)
        return predictor

    @property
    def _may_give_way(self) -> bool:
        """Whether a thread may lower its priority: threads that its session starts would inherit it."""
        return self._runtime.threads == 1

    def _beside_requests(self) -> ThreadPoolExecutor:
        """A thread for self-tests while their version serves: a priority once lowered stays so."""
        if not self._may_give_way:
            return ThreadPoolExecutor(1)
        return ThreadPoolExecutor(1, initializer=lower_priority, initargs=(TEST_NICENESS,))

    def _refuse(self, code: SwapFailure, reason: str) -> None:
        if reason != self.refusal:
            log.error("%s; %s", reason, self._consequence())
            self._observer.swap_failed(code)
            self._observer.refusing(True)
        self.refusal, self.refusal_code = reason, code

    def _accept(self) -> None:
        if self.refusal is not None:
            self._observer.refusing(False)
        self.refusal = self.refusal_code = None

    def _consequence(self) -> str:
        if self.current is None:
            return "no version serves yet"
        return f"version {self.current.manifest.id} goes on serving"


def code_of(exc: Exception) -> SwapFailure:
    """Why a version was not taken, in a word for machines."""
    if isinstance(exc, VersionError):
        return exc.code
    if isinstance(exc, ModelError):
        return "model"
    return "state" if isinstance(exc, StateError) else "unexpected"


def _shares_session(predictor: Predictor, before: Predictor | None) -> bool:
    return before is not None and predictor.encoder.session is before.encoder.session


def lower_priority(niceness: int = SWAP_NICENESS) -> None:
    """Let requests run before this thread (Linux: priority is per thread)."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    except OSError as exc:
        log.warning("the swap thread keeps normal priority: %s", exc)
