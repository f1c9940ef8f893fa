"""Versions and bases as blobs in Redis. It knows nothing of what is in their files.

A version is kilobytes: a hash of its files, written by one script. A base is megabytes: its files are cut
into pieces, so that no command moves more than a few, and it counts once its description is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from adaptsvc.errors import StateRefusedError, VersionCorruptError, VersionTooLargeError
from adaptsvc.redis.lease import FENCE, LOST, Fence
from adaptsvc.redis.link import Link
from adaptsvc.redis.pins import PINS
from adaptsvc.sections import StateSettings
from adaptsvc.versions.base import Base
from adaptsvc.versions.lease import lost
from adaptsvc.versions.store import MANIFEST

PIECE_BYTES = 4 * 2**20
PRUNED = ("versions", "pruned")
# KEYS: lease, counter. ARGV: fence, what the id must be above.
RESERVE = (
    FENCE
    + """
local last = math.max(tonumber(redis.call('GET', KEYS[2]) or '-1'), tonumber(ARGV[2])) + 1
redis.call('SET', KEYS[2], string.format('%d', last))
return {'reserved', last}
"""
)
# KEYS: lease, version, all versions, counter. ARGV: fence, id, then name and content of each file.
PUT = (
    FENCE
    + """
if redis.call('EXISTS', KEYS[2]) == 1 then return {'taken'} end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[2])
if tonumber(redis.call('GET', KEYS[4]) or '-1') < tonumber(ARGV[2]) then
    redis.call('SET', KEYS[4], ARGV[2])
end
return {'done'}
"""
)
# KEYS: lease, bases. ARGV: fence, digest, description.
PUT_BASE = (
    FENCE
    + """
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return {'done'}
"""
)
# KEYS: lease, version, all versions, pruned versions, pins, pointer. ARGV: fence, id, name of the manifest.
PRUNE = (
    FENCE
    + """
if redis.call('SISMEMBER', KEYS[5], ARGV[2]) == 1
    or redis.call('HGET', KEYS[6], 'version') == ARGV[2]
    or redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0
    or redis.call('ZSCORE', KEYS[3], ARGV[2]) == false then return {'kept'} end
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
    if name ~= ARGV[3] then redis.call('HDEL', KEYS[2], name) end
end
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
return {'done'}
"""
)
# KEYS: lease, bases. ARGV: fence, digest.
DROP_BASE = (
    FENCE
    + """
redis.call('HDEL', KEYS[2], ARGV[2])
return {'done'}
"""
)
REFUSALS_KEPT = 20


class RedisDepot:
    """Blobs in Redis; the methods are those of `Depot`.

    Args:
        link: to Redis.
        fence: what its writes show.
        settings: the caps.
    """

    def __init__(self, link: Link, fence: Fence, settings: StateSettings) -> None:
        self._link = link
        self._fence = fence
        self._settings = settings

    def ids(self) -> list[int]:
        """See `Depot`."""
        found = self._link.call(lambda client: client.zrange(self._link.key("versions"), 0, -1))
        return [int(name) for name in cast(list[bytes], found)]

    def reserve(self, above: int) -> int:
        """See `Depot`."""
        keys = [self._fence.key, self._link.key("versions", "last")]
        done, *rest = self._write(RESERVE, keys, [above])
        self._held(done)
        return int(rest[0])

    def manifest(self, version: int) -> bytes | None:
        """See `Depot`."""
        key = self._version(version)
        return cast("bytes | None", self._link.call(lambda client: client.hget(key, MANIFEST)))

    def files(self, version: int) -> dict[str, bytes]:
        """See `Depot`."""
        key = self._version(version)
        found = cast(dict[bytes, bytes], self._link.call(lambda client: client.hgetall(key)))
        return {name.decode(): data for name, data in found.items()}

    def put(self, version: int, files: Mapping[str, bytes]) -> None:
        """See `Depot`."""
        size = sum(len(data) for data in files.values())
        _check_size(f"version {version}", size, self._settings, "max_version_bytes", version)
        all_versions, counter = self._link.key("versions"), self._link.key("versions", "last")
        keys = [self._fence.key, self._version(version), all_versions, counter]
        content = [part for item in files.items() for part in item]
        (done,) = self._write(PUT, keys, [version, *content])
        self._held(done)
        if done == b"taken":
            raise StateRefusedError(
                f"Redis at {self._link.where} has a version {version} already, expected none; it was set "
                "back to an earlier state: see the Redis section of docs/operations.md"
            )

    def pruned(self) -> list[int]:
        """See `Depot`."""
        key = self._link.key(*PRUNED)
        found = self._link.call(lambda client: client.zrange(key, 0, -1))
        return [int(name) for name in cast(list[bytes], found)]

    def prune(self, version: int) -> bool:
        """See `Depot`."""
        others = ("versions",), PRUNED, (PINS,), ("pointer",)
        keys = [self._fence.key, self._version(version), *(self._link.key(*o) for o in others)]
        (done,) = self._write(PRUNE, keys, [version, MANIFEST])
        self._held(done)
        return bool(done == b"done")

    def bury(self, version: int, manifest: bytes) -> None:
        """See `Depot`."""
        key, pruned = self._version(version), self._link.key(*PRUNED)
        if self._link.call(lambda client: client.hsetnx(key, MANIFEST, cast(str, manifest))):
            self._link.call(lambda client: client.zadd(pruned, {str(version): version}))

    def replace_manifest(self, version: int, manifest: bytes) -> None:
        """See `Depot`."""
        key = self._version(version)
        self._link.call(lambda client: client.hset(key, MANIFEST, cast(str, manifest)))

    def note_refusal(self, record: bytes) -> None:
        """See `Depot`."""
        key = self._link.key("refusals")
        self._link.call(lambda client: client.rpush(key, record))
        self._link.call(lambda client: client.ltrim(key, -REFUSALS_KEPT, -1))

    def refusals(self) -> list[bytes]:
        """See `Depot`."""
        key = self._link.key("refusals")
        return cast("list[bytes]", self._link.call(lambda client: client.lrange(key, 0, -1)))

    def find_base(self, fingerprint: str) -> str | None:
        """See `Depot`."""
        key = self._link.key("bases")
        found = cast(dict[bytes, bytes], self._link.call(lambda client: client.hgetall(key)))
        for digest, description in sorted(found.items()):
            if json.loads(description)["fingerprint"] == fingerprint:
                return digest.decode()
        return None

    def fetch_base(self, digest: str, directory: Path) -> bool:
        """See `Depot`.

        Raises:
            VersionCorruptError: a piece of it is missing.
        """
        description = self._description(digest)
        if description is None:
            return False
        for name, pieces in json.loads(description)["pieces"].items():
            with (directory / Path(name).name).open("wb") as file:
                for number in range(pieces):
                    file.write(self._piece(digest, name, number))
        return True

    def put_base(self, base: Base) -> None:
        """See `Depot`."""
        if self._description(base.digest) is not None:
            return
        files = sorted(path for path in base.directory.iterdir() if path.is_file())
        size = sum(path.stat().st_size for path in files)
        _check_size(f"the base model {base.digest[:12]}", size, self._settings, "max_base_bytes")
        pieces = {path.name: self._put_pieces(base.digest, path) for path in files}
        content = {"fingerprint": base.fingerprint, "pieces": pieces, "at": time.time()}
        description = json.dumps(content)
        keys = [self._fence.key, self._link.key("bases")]
        (done,) = self._write(PUT_BASE, keys, [base.digest, description])
        self._held(done)

    def prune_bases(self, used: Collection[str], grace_s: float) -> list[str]:
        """See `Depot`."""
        key = self._link.key("bases")
        found = cast(dict[bytes, bytes], self._link.call(lambda client: client.hgetall(key)))
        bases = {digest.decode(): json.loads(text) for digest, text in found.items()}
        before = time.time() - grace_s
        old = {d for d, base in bases.items() if base.get("at", 0.0) < before} - set(used)
        for digest in sorted(old):
            (done,) = self._write(DROP_BASE, [self._fence.key, key], [digest])
            self._held(done)
            self._drop_pieces(digest, bases[digest]["pieces"])
        return sorted(old)

    def _drop_pieces(self, digest: str, pieces: Mapping[str, int]) -> None:
        for name, count in pieces.items():
            for number in range(count):
                self._drop_piece(self._link.key("base", digest, name, str(number)))

    def _drop_piece(self, key: str) -> None:
        self._link.call(lambda client: client.delete(key))

    def _description(self, digest: str) -> bytes | None:
        key = self._link.key("bases")
        return cast("bytes | None", self._link.call(lambda client: client.hget(key, digest)))

    def _put_pieces(self, digest: str, path: Path) -> int:
        """Keep a file's pieces; how many there are."""
        count = 0
        for count, piece in enumerate(_pieces(path), start=1):
            self._put_piece(self._link.key("base", digest, path.name, str(count - 1)), piece)
        return count

    def _put_piece(self, key: str, piece: bytes) -> None:
        self._link.call(lambda client: client.set(key, piece))

    def _piece(self, digest: str, name: str, number: int) -> bytes:
        key = self._link.key("base", digest, name, str(number))
        piece = cast("bytes | None", self._link.call(lambda client: client.get(key)))
        if piece is None:
            raise VersionCorruptError(
                f"piece {number} of {name} of the base model {digest[:12]} is missing in Redis at "
                f"{self._link.where}; copy the base from a machine that has it, and see that its "
                "eviction policy is noeviction"
            )
        return piece

    def _write(self, script: str, keys: list[str], content: list[Any]) -> list[Any]:
        answer: list[Any] = self._link.run(script, keys, [self._fence.fence, *content])
        return answer

    def _held(self, done: bytes) -> None:
        if done == LOST:
            raise lost(self._fence.token, f"the one in Redis at {self._link.where}")

    def _version(self, version: int) -> str:
        return self._link.key("version", str(version))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _check_size(
    what: str, size_bytes: int, settings: StateSettings, cap: str, version: int = -1
) -> None:
    if size_bytes > (most := getattr(settings, cap)):
        raise VersionTooLargeError(
            f"{what} has {size_bytes} bytes, at most {most} go to Redis; raise state.{cap}, and see that "
            "Redis has the memory",
            version,
        )
