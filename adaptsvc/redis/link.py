"""One process's way to Redis: credentials, timeouts, backoff, and the one place that maps its errors.

It knows nothing of what is kept there. While Redis does not answer, calls fail at once and only every few
seconds one tries again, so that nobody waits for it; the log says once that it is gone, and once that it is
back.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.retry import Retry

from adaptsvc.errors import ConfigError, StateError, StateRefusedError, StateUnavailableError
from adaptsvc.sections import StateSettings

log = logging.getLogger(__name__)
T = TypeVar("T")
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 5.0
GONE = (redis.ConnectionError, redis.TimeoutError, OSError)
HINTS = {  # by what the message says
    "CERTIFICATE_VERIFY_FAILED": "set state.ca_file to the certificate authority that signed it",
    "WRONG_VERSION_NUMBER": "it speaks no TLS on that port: use redis:// in state.url",
    "Connection closed by server": "if it expects TLS on that port, use rediss:// in state.url",
    "used memory": "raise its maxmemory, and keep its eviction policy at noeviction",
    "read only replica": "it is a replica: point state.url at the primary",
    "MISCONF": "it cannot save to its disk: see its log",
    "no permissions": "give its user the commands and keys that docs/operations.md lists",
}


class Link:
    """A connection pool with a memory of whether Redis answers.

    Args:
        settings: where it is, and who we are.
        heard: told when Redis goes (False) and comes back (True).
        clock: monotonic seconds.

    Raises:
        ConfigError: the settings contradict one another.
    """

    def __init__(
        self,
        settings: StateSettings,
        *,
        heard: Callable[[bool], None] = lambda _up: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(settings.url)
        self.where = f"{parts.hostname}:{parts.port or 6379}"
        self._prefix = settings.prefix
        self._heard = heard
        self._clock = clock
        self._client = _client(settings, encrypted=parts.scheme == "rediss")
        self._lock = threading.Lock()
        self._failures = 0
        self._gone_at = self._retry_at = 0.0
        self._problem: StateError | None = None

    def key(self, *parts: str) -> str:
        """The name of a key; the braces keep all of ours in one slot."""
        return ":".join((f"{{{self._prefix}}}", *parts))

    def call(self, act: Callable[[redis.Redis], T]) -> T:
        """What `act` makes of the client.

        Raises:
            StateUnavailableError: Redis does not answer, or did not lately.
            StateRefusedError: it says no.
        """
        self._admit()
        try:
            result = act(self._client)
        except redis.AuthenticationError as exc:
            raise self._went(self._not_let_in(exc)) from exc
        except GONE as exc:
            problem = f"Redis at {self.where} does not answer: {_with_hint(str(exc))}"
            raise self._went(StateUnavailableError(problem)) from exc
        except redis.RedisError as exc:
            self._came()
            raise StateRefusedError(f"Redis at {self.where} says: {_with_hint(str(exc))}") from exc
        self._came()
        return result

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """What a Lua script returns; Redis runs it as one, undivided step.

        Raises:
            StateError: as `call`.
        """
        return self.call(lambda client: client.register_script(script)(keys, arguments))

    def subscribe(self, channel: str) -> PubSub:
        """A subscription, on a connection of its own.

        Raises:
            StateError: as `call`.
        """

        def act(client: redis.Redis) -> PubSub:
            subscription: PubSub = client.pubsub(  # type: ignore[no-untyped-call]
                ignore_subscribe_messages=True
            )
            subscription.subscribe(channel)
            return subscription

        return self.call(act)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def _admit(self) -> None:
        """Let a call through unless Redis is known to be gone; then one at a time, now and again."""
        with self._lock:
            if self._problem is None:
                return
            if (now := self._clock()) < self._retry_at:
                raise self._problem
            self._retry_at = now + LONGEST_BACKOFF_S

    def _went(self, problem: StateError) -> StateError:
        with self._lock:
            first = self._problem is None
            if first:
                self._gone_at = self._clock()
            longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures, 16))
            self._failures += 1
            self._retry_at = self._clock() + longest * random.uniform(0.5, 1)
            self._problem = problem
        if first:
            log.error("%s; going on with what is here, trying again until it answers", problem)
            self._heard(False)
        return problem

    def _came(self) -> None:
        with self._lock:
            back, self._problem, self._failures = self._problem is not None, None, 0
            gone_s = self._clock() - self._gone_at
        if back:
            log.warning("Redis at %s answers again, after %.1f s", self.where, gone_s)
            self._heard(True)

    def _not_let_in(self, exc: Exception) -> StateRefusedError:
        return StateRefusedError(
            f"Redis at {self.where} does not let us in: {exc}; set ADAPTSVC_STATE__PASSWORD, and "
            "ADAPTSVC_STATE__USERNAME when it has users, to what its configuration says"
        )


def _client(settings: StateSettings, *, encrypted: bool) -> redis.Redis:
    ca_file = settings.ca_file
    if ca_file and not encrypted:
        raise ConfigError(
            f"state.ca_file is {ca_file!r}, but state.url begins with redis://, which is not encrypted; "
            "expected rediss://: change the URL or leave out the file"
        )
    if ca_file and not Path(ca_file).is_file():
        raise ConfigError(
            f"state.ca_file is {ca_file!r}, which is no file; expected certificates in PEM"
        )
    tls: dict[str, Any] = {"ssl_ca_certs": ca_file} if ca_file else {}
    return redis.Redis.from_url(
        settings.url,
        username=settings.username or None,
        password=settings.password.get_secret_value() or None,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),  # `Link` decides when to try again; a write never runs twice
        protocol=2,
        **tls,
    )


def _with_hint(text: str) -> str:
    hint = next((hint for word, hint in HINTS.items() if word in text), "")
    return f"{text.rstrip('.')}; {hint}" if hint else text
