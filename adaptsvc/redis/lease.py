"""The lease in Redis: a key that runs out, and a counter that only rises. It knows not what it guards."""

from __future__ import annotations

from typing import Final, Protocol
from uuid import uuid4

from adaptsvc.redis.link import Link
from adaptsvc.versions.lease import lost

# A lost answer does no harm: the key names its owner, who is given the same token when asking again.
TAKE = """
local lease, counter, owner, length_ms = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local holder = redis.call('GET', lease)
if holder then
    local token, name = string.match(holder, '^(%d+):(.*)$')
    if name ~= owner then return 0 end
    redis.call('PEXPIRE', lease, length_ms)
    return tonumber(token)
end
local token = redis.call('INCR', counter)
redis.call('SET', lease, token .. ':' .. owner, 'NX', 'PX', length_ms)
return token
"""
GIVE_BACK = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)
# The beginning of every script that writes; KEYS[1] is the lease, ARGV[1] what it must hold: '' for a person,
# who needs none.
FENCE: Final = """
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return {'lost'}
end
"""
LOST = b"lost"


class Fence(Protocol):
    """What a writer shows: the lease, or that it needs none."""

    @property
    def key(self) -> str:
        """Where the lease is kept."""
        ...

    @property
    def token(self) -> int:
        """Of the lease, as far as this process knows."""
        ...

    @property
    def fence(self) -> str:
        """What must be there; empty for a writer that needs no lease."""
        ...


class RedisLease:
    """A lease in Redis.

    Args:
        link: to Redis.
        length_s: it runs out so long after it was last prolonged.
    """

    def __init__(self, link: Link, length_s: float) -> None:
        self._link = link
        self._length_ms = max(1, round(1000 * length_s))
        self._owner = uuid4().hex
        self._token = 0

    @property
    def key(self) -> str:
        """Where it is kept."""
        return self._link.key("lease")

    @property
    def token(self) -> int:
        """See `Lease`."""
        return self._token

    @property
    def fence(self) -> str:
        """What Redis must hold for a write to be done.

        Raises:
            LeaseLostError: this process knows that it does not hold the lease.
        """
        self.check()
        return f"{self._token}:{self._owner}"

    def acquire(self) -> bool:
        """See `Lease`."""
        keys = [self.key, self._link.key("lease", "token")]
        self._token = int(self._link.run(TAKE, keys, [self._owner, self._length_ms]))
        return self._token > 0

    def check(self) -> None:
        """See `Lease`; it asks nobody. Redis has the last word, in the same step as the write."""
        if not self._token:
            raise lost(0, f"the one in Redis at {self._link.where}")

    def release(self) -> None:
        """See `Lease`."""
        if self._token:
            fence, self._token = self.fence, 0
            self._link.run(GIVE_BACK, [self.key], [fence])


class NoLease:
    """What stands for the lease of someone who needs none: a person, or a reader."""

    def __init__(self, link: Link) -> None:
        self.key = link.key("lease")
        self.token = 0
        self.fence = ""
