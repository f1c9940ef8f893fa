"""A store whose versions every machine has: a folder here, kept in step with a depot that all of them reach.

It knows nothing of what the depot is. A version is written here, then put in the depot, and counts from then
on; a version of another machine is fetched, verified and put in the folder before anything reads it. What is
in the folder serves when the depot is out of reach. Refused candidates stay on the machine that made them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from adaptsvc.errors import StateError, VersionCorruptError, VersionNotFoundError
from adaptsvc.types import Tensors
from adaptsvc.versions.base import Base
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Draft, Manifest
from adaptsvc.versions.refusals import REASON, Refusal, parse_refusal
from adaptsvc.versions.store import BASE_GRACE_S, MANIFEST, Version, VersionStore

log = logging.getLogger(__name__)


class Depot(Protocol):
    """Where files of versions and bases are kept for all machines. Every method raises StateError."""

    def ids(self) -> list[int]:
        """Every version, ascending."""
        ...

    def reserve(self, above: int) -> int:
        """An id that nobody else is given, over `above`."""
        ...

    def manifest(self, version: int) -> bytes | None:
        """The manifest of a version; None when there is no such version."""
        ...

    def files(self, version: int) -> dict[str, bytes]:
        """The content of a version's files by name; empty when there is no such version."""
        ...

    def put(self, version: int, files: Mapping[str, bytes]) -> None:
        """Keep a version, completely or not at all.

        Raises:
            LeaseLostError: this writer needs a lease, and does not hold it.
            VersionTooLargeError: it is over the cap.
        """
        ...

    def pruned(self) -> list[int]:
        """Every version of which only the manifest is left, ascending."""
        ...

    def prune(self, version: int) -> bool:
        """Delete all of a version but its manifest; False where it serves, is pinned, or is not there.

        Raises:
            LeaseLostError: this writer needs a lease, and does not hold it.
        """
        ...

    def bury(self, version: int, manifest: bytes) -> None:
        """Keep the manifest of a version that was pruned; nothing happens when there is one."""
        ...

    def replace_manifest(self, version: int, manifest: bytes) -> None:
        """Put another manifest in the place of a version's: the same, signed."""
        ...

    def prune_bases(self, used: Collection[str], grace_s: float) -> list[str]:
        """Delete the bases that are not used, but for those put there since so many seconds."""
        ...

    def note_refusal(self, record: bytes) -> None:
        """Remember why a candidate was refused; the oldest of many are forgotten."""
        ...

    def refusals(self) -> list[bytes]:
        """The records of refused candidates, oldest first."""
        ...

    def find_base(self, fingerprint: str) -> str | None:
        """The digest of a base that was exported from that image tower."""
        ...

    def fetch_base(self, digest: str, directory: Path) -> bool:
        """Write a base's files into an empty folder; False when there is no such base."""
        ...

    def put_base(self, base: Base) -> None:
        """Keep a base; nothing happens when it is there already.

        Raises:
            LeaseLostError: this writer needs a lease, and does not hold it.
            VersionTooLargeError: it is over the cap.
        """
        ...


class SharedStore:
    """See the top of this module; the methods are those of `Store`.

    Args:
        local: the folder on this machine.
        depot: what all machines reach.
    """

    def __init__(self, local: VersionStore, depot: Depot) -> None:
        self._local = local
        self._depot = depot

    @property
    def root(self) -> Path:
        """The folder on this machine."""
        return self._local.root

    def add_base(self, export: Callable[[Path], None]) -> Base:
        """Store a base here; it goes to the depot with the first version that needs it."""
        return self._local.add_base(export)

    def find_base(self, fingerprint: str) -> Base | None:
        """The base exported from that image tower, from here or from the depot."""
        if found := self._local.find_base(fingerprint):
            return found
        try:
            digest = self._depot.find_base(fingerprint)
        except StateError as exc:
            log.warning("looking for the base model here only: %s", exc)
            return None
        return self.base(digest) if digest else None

    def base(self, digest: str) -> Base:
        """A base model, fetched the first time.

        Raises:
            ForeignBaseError: it is neither here nor in the depot.
            VersionCorruptError: its files do not match its digest.
            StateError: it is not here, and the depot is out of reach.
        """
        if not (self.root / "base" / digest).is_dir():
            self._fetch_base(digest)
        return self._local.base(digest)

    def discard_base(self, digest: str) -> None:
        """Delete a base here that no version here is a delta to."""
        self._local.discard_base(digest)

    def publish(self, draft: Draft, delta: Tensors, head: Head, *, record: bytes = b"") -> Manifest:
        """Store a version here and in the depot; where the second fails, it is gone from here as well.

        Raises:
            LeaseLostError: this writer needs a lease, and does not hold it.
            StateUnavailableError: whether the depot has it is not known; nothing points to it.
            VersionTooLargeError: it or its base is over the cap.
        """
        if (self.root / "base" / draft.base).is_dir():
            self._depot.put_base(self._local.base(draft.base))
        manifest = self._local.publish(draft, delta, head, record=record, next_id=self._next_id)
        try:
            self._depot.put(manifest.id, self._local.files(manifest.id))
        except BaseException:
            self._local.drop(manifest.id)
            raise
        return manifest

    def refuse(self, draft: Draft, delta: Tensors, head: Head, reasons: Sequence[str]) -> Path:
        """Keep a refused candidate here; its reasons go to the depot, if that can be reached."""
        folder = self._local.refuse(draft, delta, head, reasons)
        try:
            self._depot.note_refusal((folder / REASON).read_bytes())
        except StateError as exc:
            log.warning("the other machines do not see why a candidate was refused: %s", exc)
        return folder

    def refused(self) -> list[Path]:
        """The folders of candidates refused here, oldest first."""
        return self._local.refused()

    def refusals(self) -> list[Refusal]:
        """Why candidates were refused, anywhere; those refused here when the depot is out of reach."""
        try:
            return [parse_refusal(record) for record in self._depot.refusals()]
        except StateError:  # whoever keeps the connection has said so
            return self._local.refusals()
        except ValidationError as exc:
            log.warning("only what was refused here is known: %s", exc)
            return self._local.refusals()

    def pruned(self) -> list[int]:
        """Every version of which only the manifest is left, ascending."""
        try:
            return self._depot.pruned()
        except StateError:
            return self._local.pruned()

    def prune(self, version: int) -> bool:
        """Delete a version's weights everywhere; other machines delete their copies with their next load."""
        done = self._depot.prune(version)
        if done and (manifest := self._depot.manifest(version)):
            self._local.bury(version, manifest)
        return done

    def prune_bases(self) -> list[str]:
        """Delete the bases that no version is a delta to, but for the youngest; their digests."""
        used = {self.manifest(version).base for version in self._depot.ids()}
        self._local.prune_bases()
        return self._depot.prune_bases(used, BASE_GRACE_S)

    def sign(self, version: int) -> Manifest:
        """Sign a version here and in the depot; see `VersionStore.sign`."""
        if version not in (*self._local.ids(), *self._local.pruned()):
            raise VersionNotFoundError(
                f"version {version} is not on this machine; sign it on one that has it", version
            )
        signed = self._local.sign(version)
        self._depot.replace_manifest(version, signed.to_json())
        return signed

    def ids(self) -> list[int]:
        """Every published version, ascending; those that are here when the depot is out of reach."""
        try:
            return self._depot.ids()
        except StateError:
            return self._local.ids()

    def manifest(self, version: int) -> Manifest:
        """One manifest, its own digest verified.

        Raises:
            StateError: the version is not here, and the depot is out of reach.
        """
        if version not in (*self._local.ids(), *self._local.pruned()):
            self._fetch(version)
        return self._local.manifest(version)

    def load(self, version: int) -> Version:
        """One version, every digest verified; the copy here is replaced by a sound one of the depot.

        Raises:
            VersionNotFoundError: no such version.
            VersionCorruptError: a file is missing, truncated or altered, in the depot too.
            StateError: the version is not here, and the depot is out of reach.
        """
        try:
            published = self._depot.manifest(version)
            self._sweep()
        except StateError:
            if version not in self._local.ids():
                raise
            return self._local.load(version)
        if published is not None and self._local.files(version).get(MANIFEST) != published:
            self._fetch_over(version)
        try:
            return self._local.load(version)
        except VersionCorruptError:
            if published is None:
                raise
            log.warning("version %d was altered here; it is fetched again", version)
            self._fetch(version)
            return self._local.load(version)

    def record(self, version: int) -> bytes:
        """What the round of a version was made of; see `VersionStore.record`."""
        self.load(version)
        return self._local.record(version)

    def share(self, version: int) -> None:
        """Verify a version, and put it in the depot with its ancestors and bases where they are not there.

        So a machine that has them brings them back after the depot lost them, or was none before.

        Raises:
            VersionError: as `load`.
            StateError: the depot is out of reach.
        """
        missing: int | None = version
        while missing is not None and self._depot.manifest(missing) is None:
            manifest = self._local.manifest(missing)
            if missing in self._local.pruned():
                self._depot.bury(missing, manifest.to_json())
                missing = manifest.parent
                continue
            self._local.load(missing)
            if (self.root / "base" / manifest.base).is_dir():
                self._depot.put_base(self._local.base(manifest.base))
            self._depot.put(missing, self._local.files(missing))
            missing = manifest.parent
        self.load(version)

    def _next_id(self) -> int:
        return self._depot.reserve(max(self._local.ids(), default=-1))

    def _fetch(self, version: int) -> None:
        files = self._depot.files(version)
        if set(files) == {MANIFEST}:
            self._local.bury(version, files[MANIFEST])
        elif files:
            self._local.take(version, files)

    def _sweep(self) -> None:
        """Delete the weights here of what was pruned in the depot."""
        for version in set(self._local.ids()).intersection(self._depot.pruned()):
            if manifest := self._depot.manifest(version):
                self._local.bury(version, manifest)

    def _fetch_over(self, version: int) -> None:
        """Fetch a version whose copy here, if there is one, differs; what was altered there stays there."""
        try:
            self._fetch(version)
        except VersionCorruptError as exc:
            if version not in self._local.ids():
                raise
            log.warning("the copy here is used: %s", exc)

    def _fetch_base(self, digest: str) -> None:
        here = self.root / "base" / digest

        def export(directory: Path) -> None:
            if not self._depot.fetch_base(digest, directory):
                raise _NotThere

        try:
            fetched = self._local.add_base(export)
        except _NotThere:
            return  # the folder's own error says what to do
        if fetched.digest != digest:
            self._local.discard_base(fetched.digest)
            raise VersionCorruptError(
                f"the base model {digest[:12]} was altered where all machines keep it: its files there "
                f"give {fetched.digest[:12]}; copy it from a machine that has it to {here}"
            )


class _NotThere(Exception):  # noqa: N818 - a signal, not an error
    """The depot has no such base."""
