"""How the service asks the worker of its machine to wait: by touching a file while it is slow.

It knows nothing of requests or rounds. The file is empty; its time says when some service process last found
its slowest answers over the limit. So nothing has to be taken back, several processes need no lock, and a
service that ends leaves nothing behind that lasts.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)
HOLDS_S = 2.0  # a touch speaks for so long
LOOK_EVERY_S = 0.05
WINDOW_S, JUDGE_EVERY_S = 10.0, 1.0
SHARE, LEAST = 0.99, 20


class Slowness:
    """The 99th percentile of what came in within the last seconds.

    Example:
        >>> slowness = Slowness(window_s=10.0)
        >>> for second in range(40):
        ...     slowness.add(0.5 if second == 39 else 0.01, now=100 + second / 10)
        >>> slowness.p99(now=104.0), slowness.p99(now=200.0)
        (0.5, 0.0)
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._found: deque[tuple[float, float]] = deque(maxlen=2000)

    def add(self, seconds: float, now: float) -> None:
        """One answer took so long."""
        self._found.append((now, seconds))

    def p99(self, now: float) -> float:
        """Of the window; 0 where it holds too few to tell."""
        while self._found and self._found[0][0] < now - self._window_s:
            self._found.popleft()
        if len(self._found) < LEAST:
            return 0.0
        ordered = sorted(seconds for _, seconds in self._found)
        return ordered[math.ceil(SHARE * len(ordered)) - 1]


class Alert:
    """The service's side: touches the file while answers are slow. Not thread-safe: for one event loop.

    Args:
        path: the file.
        limit_s: of the 99th percentile; 0 is none.
        clock: monotonic seconds.
    """

    def __init__(
        self, path: Path, limit_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._limit_s = limit_s
        self._clock = clock
        self._slowness = Slowness()
        self._judged_s = -math.inf

    def note(self, seconds: float) -> None:
        """One request waited so long; infinity where it was turned away."""
        if not self._limit_s:
            return
        now = self._clock()
        self._slowness.add(seconds, now)
        if now - self._judged_s < JUDGE_EVERY_S:
            return
        self._judged_s = now
        if self._slowness.p99(now) > self._limit_s:
            try:
                self._path.touch()
            except OSError as exc:  # a full disk is no reason to fail a request
                log.warning("the worker cannot be asked to wait: %s", exc)


def is_pressed(path: Path, now: float) -> bool:
    """Whether the service was slow just now; `now` is Unix time."""
    try:
        return 0 <= now - path.stat().st_mtime < HOLDS_S
    except OSError:
        return False


def give_way(path: Path, most_s: float, stop: threading.Event) -> float:
    """Wait while the service is slow, at most so long; how long it was.

    Args:
        path: the file.
        most_s: where a service is slow all the time, the worker goes on after this.
        stop: ends the waiting.
    """
    started = time.monotonic()
    while is_pressed(path, time.time()) and time.monotonic() - started < most_s:
        if stop.wait(LOOK_EVERY_S):
            break
    return time.monotonic() - started
