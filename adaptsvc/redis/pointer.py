"""The pointer in Redis: compare-and-set in one Lua script, which tells who listens. It knows no versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from adaptsvc.redis.lease import FENCE, LOST, Fence
from adaptsvc.redis.link import Link
from adaptsvc.versions.lease import lost
from adaptsvc.versions.pointer import Current, conflict, corrupt, held

CHANGES = "changes"  # the channel
FIELDS = ["version", "sequence", "held"]
# KEYS: lease, pointer, channel. ARGV: fence, expected ('' is none), version, how ('set', 'force' or 'hold').
MOVE = (
    FENCE
    + """
local before = redis.call('HMGET', KEYS[2], 'version', 'sequence', 'held')
local version, sequence = before[1] or '', before[2] or '0'
local sound = string.match(sequence, '^%d+$') and string.match(version, '^%d*$')
    and (version ~= '') == (sequence ~= '0')
if ARGV[4] == 'set' then
    if not sound then return {'corrupt', version, sequence} end
    if before[3] == '1' then return {'held', version} end
    if version ~= ARGV[2] then return {'conflict', version} end
end
if not sound then sequence = redis.call('TIME')[1] end  -- above any count of changes so far
sequence = string.format('%d', tonumber(sequence) + 1)
redis.call('HSET', KEYS[2], 'version', ARGV[3], 'sequence', sequence,
    'held', ARGV[4] == 'hold' and '1' or '0')
redis.call('PUBLISH', KEYS[3], sequence)
return {'moved', sequence}
"""
)


class RedisPointer:
    """The pointer.

    Args:
        link: to Redis.
        fence: what its writes show.
    """

    def __init__(self, link: Link, fence: Fence) -> None:
        self._link = link
        self._fence = fence
        self._key = link.key("pointer")

    def read(self) -> Current:
        """What serves now.

        Raises:
            StateError: Redis does not answer, or says no.
            VersionCorruptError: what it holds is no pointer.
        """
        found = cast(
            Sequence[bytes | None],
            self._link.call(lambda client: client.hmget(self._key, FIELDS)),
        )
        if found[0] is None and found[1] is None:
            return Current(None, 0)
        try:
            return Current(int(found[0] or b""), int(found[1] or b""), found[2] == b"1")
        except ValueError as exc:
            raise self._corrupt(found[:2]) from exc

    def compare_and_set(self, expected: int | None, version: int) -> Current:
        """Move from `expected` to `version`; see `Pointer`.

        Raises:
            StateUnavailableError: whether it moved is not known; read it again.
        """
        before = "" if expected is None else str(expected)
        done, *rest = self._move(self._fence.fence, before, version, "set")
        if done == LOST:
            raise lost(self._fence.token, f"the one in Redis at {self._link.where}")
        if done == b"held":
            raise held(version, int(rest[0]))
        if done == b"conflict":
            raise conflict(expected, version, int(rest[0]) if rest[0] else None)
        if done == b"corrupt":
            raise self._corrupt(rest)
        return Current(version, int(rest[0]))

    def force(self, version: int, *, hold: bool = False) -> Current:
        """Move to `version`; see `Pointer`. It needs no lease."""
        _, sequence = self._move("", "", version, "hold" if hold else "force")
        return Current(version, int(sequence), hold)

    def _move(self, fence: str, expected: str, version: int, how: str) -> list[Any]:
        keys = [self._fence.key, self._key, self._link.key(CHANGES)]
        answer: list[Any] = self._link.run(MOVE, keys, [fence, expected, version, how])
        return answer

    def _corrupt(self, found: Sequence[bytes | None]) -> Exception:
        where = f"{self._key} in Redis at {self._link.where}"
        return corrupt(b" ".join(part or b"nothing" for part in found), where)
