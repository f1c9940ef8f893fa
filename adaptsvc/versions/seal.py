"""Who made a version: HMAC-SHA256 over its manifest, which holds the digest of every file. It knows no files.

Digests tell damage from what was published; a signature tells what somebody published who has the key from
what somebody wrote who has only the disk or the Redis. Several keys verify, so that one can be replaced while
versions signed with the one before still serve; the first one signs.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from adaptsvc.errors import VersionUnsignedError
from adaptsvc.versions.manifest import Manifest

CONTEXT = b"adaptsvc version manifest\n"  # a signature of something else is none of a manifest


class Seal:
    """Signs and checks manifests; without keys it does neither.

    Args:
        keys: the first signs, any verifies.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = tuple(keys)

    def sign(self, manifest: Manifest) -> Manifest:
        """The manifest with a signature; unchanged where there is no key."""
        if not self._keys:
            return manifest
        return manifest.model_copy(update={"signature": _signature(self._keys[0], manifest)})

    def check(self, manifest: Manifest) -> None:
        """Do nothing where one of the keys has signed it, or there is none.

        Raises:
            VersionUnsignedError: no signature, or that of another key.
        """
        if not self._keys:
            return
        given = manifest.signature or ""
        if not any([hmac.compare_digest(given, _signature(k, manifest)) for k in self._keys]):
            what = "is signed by a key that is not known here" if given else "is not signed"
            raise VersionUnsignedError(
                f"version {manifest.id} {what}, expected a signature of one of {len(self._keys)} keys of "
                "versions.signing_keys; activate another version, or, if you trust it, run "
                f"'adaptsvc versions sign {manifest.id}'",
                manifest.id,
            )


def _signature(key: bytes, manifest: Manifest) -> str:
    return hmac.new(key, CONTEXT + manifest.canonical(), hashlib.sha256).hexdigest()
