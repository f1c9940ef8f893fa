"""Being told that the pointer moved, instead of finding out at the next poll. It knows not where to.

Nothing depends on it: while there is no subscription, whoever listens polls.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis
from redis.client import PubSub

from adaptsvc.errors import StateError
from adaptsvc.redis.link import Link
from adaptsvc.redis.pointer import CHANGES

log = logging.getLogger(__name__)
LISTEN_S, RETRY_S, PING_S, SILENT_S = 0.5, 1.0, 10.0, 30.0


class Notices:
    """Rings when somebody moved the pointer.

    Args:
        link: to Redis.
        ring: called in a thread of its own; also after every new subscription, since what was said before
            it was not heard.
    """

    def __init__(self, link: Link, ring: Callable[[], None]) -> None:
        self._link = link
        self._ring = ring
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hear-notices", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                subscription = self._link.subscribe(self._link.key(CHANGES))
                self._ring()
                with subscription:
                    self._listen(subscription)
            except (StateError, redis.RedisError, OSError) as exc:
                log.debug("no notices, polling goes on: %s", exc)
            self._stop.wait(RETRY_S)

    def _listen(self, subscription: PubSub) -> None:
        """Until told to stop, or nothing at all was heard for too long: the other end may be gone."""
        heard = asked = time.monotonic()
        while not self._stop.is_set() and time.monotonic() - heard < SILENT_S:
            message = subscription.get_message(timeout=LISTEN_S)
            now = time.monotonic()
            if message is not None:
                heard = now
                if message["type"] == "message":
                    self._ring()
            elif now - max(heard, asked) > PING_S:
                subscription.ping()
                asked = now
