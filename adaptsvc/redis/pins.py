"""The pinned versions in Redis: a set. It knows nothing of versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from adaptsvc.redis.link import Link

PINS = "pins"


class RedisPins:
    """The pins; the methods are those of `adaptsvc.versions.pins.Pins`.

    Args:
        link: to Redis.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._key = link.key(PINS)

    def read(self) -> frozenset[int]:
        """See `Pins`."""
        found = self._link.call(lambda client: client.smembers(self._key))
        return frozenset(int(version) for version in cast("set[bytes]", found))

    def add(self, version: int) -> bool:
        """See `Pins`."""
        return bool(self._link.call(lambda client: client.sadd(self._key, str(version))))

    def remove(self, version: int) -> bool:
        """See `Pins`."""
        return bool(self._link.call(lambda client: client.srem(self._key, str(version))))

    def unless_pinned(self, version: int, act: Callable[[], None]) -> None:
        """See `Pins`; what deletes a version in Redis asks again, in the same step."""
        if version not in self.read():
            act()
