"""The worker's text for every service process, in Redis: one string. It knows nothing of what it says."""

from __future__ import annotations

from typing import cast

from adaptsvc.redis.lease import FENCE, LOST, Fence
from adaptsvc.redis.link import Link
from adaptsvc.versions.lease import lost

DRIFT, SHADOW = "drift", "shadow"
# KEYS: lease, text. ARGV: fence, text.
WRITE = FENCE + "redis.call('SET', KEYS[2], ARGV[2])\nreturn {'written'}"


class RedisBoard:
    """The text; the methods are those of `adaptsvc.versions.board.Board`.

    Args:
        link: to Redis.
        fence: what its writes show.
        name: of the text.
    """

    def __init__(self, link: Link, fence: Fence, name: str = DRIFT) -> None:
        self._link = link
        self._fence = fence
        self._key = link.key(name)

    def read(self) -> bytes | None:
        """See `Board`."""
        return cast("bytes | None", self._link.call(lambda client: client.get(self._key)))

    def write(self, data: bytes) -> None:
        """See `Board`."""
        answer = self._link.run(WRITE, [self._fence.key, self._key], [self._fence.fence, data])
        if answer[0] == LOST:
            raise lost(self._fence.token, f"the one in Redis at {self._link.where}")
