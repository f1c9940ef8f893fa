"""API keys: made here, kept as hashes in the settings, compared in constant time. It knows nothing of HTTP.

A key has 256 random bits, so nobody finds it by trying hashes, and one round of SHA-256 is enough. The slow
hashes that passwords need would only let a stranger burn a core per request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

Role: TypeAlias = Literal["data", "admin"]
ROLES: tuple[Role, ...] = ("data", "admin")
RANDOM_BYTES = 32


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name and role of the key that came."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class KeyHash:
    """What the settings hold of a key.

    Attributes:
        name: whose it is; may be logged.
        role: what it opens; ``admin`` opens all that ``data`` does.
        sha256: of the key, in hex.
    """

    name: str
    role: Role
    sha256: str

    @classmethod
    def parse(cls, line: str) -> KeyHash:
        """From ``name:role:sha256``, as the settings have checked it."""
        name, role, sha256 = line.split(":")
        return cls(name, cast(Role, role), sha256)

    def __str__(self) -> str:
        return f"{self.name}:{self.role}:{self.sha256}"


class Keys:
    """The keys that are let in.

    Args:
        hashes: of each.
    """

    def __init__(self, hashes: Sequence[KeyHash]) -> None:
        self._hashes = tuple(hashes)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def find(self, key: str) -> KeyHash | None:
        """Whose key this is; every hash is compared, each in constant time."""
        digest = _digest(key)
        found: KeyHash | None = None
        for known in self._hashes:
            if hmac.compare_digest(known.sha256, digest):
                found = known
        return found


def keys_of(lines: Sequence[str]) -> Keys:
    """The keys of the setting `serve.keys`."""
    return Keys([KeyHash.parse(line) for line in lines])


def new_key(name: str, role: Role) -> tuple[str, KeyHash]:
    """A new key and its hash; the key is nowhere else.

    Example:
        >>> key, known = new_key("phone", "data")
        >>> Keys([known]).find(key) == known
        True
    """
    key = f"adaptsvc-{role}-{secrets.token_urlsafe(RANDOM_BYTES)}"
    return key, KeyHash(name, role, _digest(key))


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
