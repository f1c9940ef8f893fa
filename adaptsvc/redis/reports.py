"""The service processes' texts for the worker, in Redis: a hash. It knows nothing of what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from adaptsvc.redis.lease import FENCE, LOST, Fence
from adaptsvc.redis.link import Link
from adaptsvc.versions.lease import lost

# KEYS: lease, reports. ARGV: fence.
CLEAR = FENCE + "redis.call('DEL', KEYS[2])\nreturn {'cleared'}"


class RedisReports:
    """The texts; the methods are those of `adaptsvc.versions.reports.Reports`.

    Args:
        link: to Redis.
        fence: what is shown when all of them are forgotten; a process needs none for its own.
    """

    def __init__(self, link: Link, fence: Fence) -> None:
        self._link = link
        self._fence = fence
        self._key = link.key("shadow", "reports")

    def read(self) -> Mapping[str, bytes]:
        """See `Reports`."""
        found = self._link.call(lambda client: client.hgetall(self._key))
        return {name.decode(): data for name, data in cast("dict[bytes, bytes]", found).items()}

    def write(self, name: str, data: bytes) -> None:
        """See `Reports`."""
        self._link.call(lambda client: client.hset(self._key, name, cast(str, data)))

    def clear(self) -> None:
        """See `Reports`."""
        answer = self._link.run(CLEAR, [self._fence.key, self._key], [self._fence.fence])
        if answer[0] == LOST:
            raise lost(self._fence.token, f"the one in Redis at {self._link.where}")
