"""Base models and versions in a folder: immutable, checksummed, published by one rename.

It knows nothing of which version serves.

    base/<sha256>/      model.onnx  model.data  preprocess.json  [tuned.safetensors]
    versions/000012/    manifest.json  delta.safetensors  head.safetensors  [round.json]
    pruned/000007.json  the manifest of a version whose weights were deleted
    refused/            candidates with their reasons (see adaptsvc.versions.refusals), never served
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from adaptsvc.errors import VersionCorruptError, VersionNotFoundError, VersionPrunedError
from adaptsvc.types import Tensors
from adaptsvc.versions import delta as tensors
from adaptsvc.versions.base import Base, description_of, digest_of, read_base
from adaptsvc.versions.delta import Head
from adaptsvc.versions.files import staging, sync_directory, sync_tree, write_atomic
from adaptsvc.versions.manifest import Draft, Manifest, parse
from adaptsvc.versions.refusals import Refusal, Refusals
from adaptsvc.versions.seal import Seal

DELTA, HEAD, MANIFEST = "delta.safetensors", "head.safetensors", "manifest.json"
RECORD = "round.json"  # only of versions that were learned: what their round was made of
BASE_GRACE_S = 3600.0  # a base younger than this may be about to get its version


@dataclass(frozen=True, slots=True)
class Version:
    """A version as read and verified."""

    manifest: Manifest
    delta: Tensors
    head: Head


class Store(Protocol):
    """Where versions are; `VersionStore` says what each method does."""

    @property
    def root(self) -> Path:
        """The folder on this machine."""
        ...

    def add_base(self, export: Callable[[Path], None]) -> Base: ...
    def find_base(self, fingerprint: str) -> Base | None: ...
    def base(self, digest: str) -> Base: ...
    def discard_base(self, digest: str) -> None: ...
    def publish(
        self, draft: Draft, delta: Tensors, head: Head, *, record: bytes = b""
    ) -> Manifest: ...
    def refuse(self, draft: Draft, delta: Tensors, head: Head, reasons: Sequence[str]) -> Path: ...
    def refused(self) -> list[Path]: ...
    def refusals(self) -> list[Refusal]: ...
    def ids(self) -> list[int]: ...
    def pruned(self) -> list[int]: ...
    def prune(self, version: int) -> bool: ...
    def prune_bases(self) -> list[str]: ...
    def sign(self, version: int) -> Manifest: ...
    def manifest(self, version: int) -> Manifest: ...
    def load(self, version: int) -> Version: ...
    def record(self, version: int) -> bytes: ...
    def share(self, version: int) -> None: ...


class VersionStore:
    """Versions in a folder.

    Args:
        root: created when missing.
        clock: for `created_at`.
        fence: raises when this writer may not publish; by default every writer may.
        seal: signs what is published, and checks what is read.
    """

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        fence: Callable[[], None] = lambda: None,
        seal: Seal | None = None,
    ) -> None:
        self.root = root
        self._clock = clock
        self._fence = fence
        self._seal = seal or Seal()
        self._bases: dict[str, Base] = {}
        for name in ("base", "versions", "pruned"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._refusals = Refusals(root / "refused")

    def add_base(self, export: Callable[[Path], None]) -> Base:
        """Store what `export` writes into an empty folder, under its digest."""
        with staging(self.root / "base") as content:
            export(content)
            digest = digest_of(content)
            sync_tree(content)
            target = self.root / "base" / digest
            try:
                content.rename(target)
            except OSError:
                if not target.exists():  # else it is here already, or another writer was faster
                    raise
            sync_directory(target.parent)
        return self.base(digest)

    def find_base(self, fingerprint: str) -> Base | None:
        """The base exported from that image tower, if there is one."""
        for directory in sorted((self.root / "base").glob("[0-9a-f]*")):
            if description_of(directory).get("fingerprint") == fingerprint:
                return self.base(directory.name)
        return None

    def base(self, digest: str) -> Base:
        """A base model, its files verified the first time.

        Raises:
            ForeignBaseError: it is not here.
            VersionCorruptError: its files do not match its digest.
        """
        if digest not in self._bases:
            self._bases[digest] = read_base(self.root / "base" / digest)
        return self._bases[digest]

    def discard_base(self, digest: str) -> None:
        """Delete a base that no version is a delta to; it stays when one cannot be read."""
        try:
            used = any(self.manifest(version).base == digest for version in self.ids())
        except VersionCorruptError:
            return
        if not used:
            self._bases.pop(digest, None)
            with staging(self.root / "base") as content:
                (self.root / "base" / digest).rename(content / digest)

    def publish(
        self,
        draft: Draft,
        delta: Tensors,
        head: Head,
        *,
        record: bytes = b"",
        next_id: Callable[[], int] | None = None,
    ) -> Manifest:
        """Store a version under the next free id; it is complete or not there at all.

        Args:
            draft: what it says of itself.
            delta: what it changes of the base.
            head: its class head.
            record: what its round was made of, as adaptsvc.versions.round_record writes it; may be empty.
            next_id: gives an id to try, another one each time; by default one above the newest here.

        Raises:
            LeaseLostError: this writer needs a lease, and does not hold it.
        """
        with staging(self.root / "versions") as content:
            written = _tensor_files(delta, head) | ({RECORD: record} if record else {})
            for name, data in written.items():
                write_atomic(content / name, data)
            files = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
            while True:
                taken = (*self.ids(), *self.pruned())
                version = next_id() if next_id else max(taken, default=-1) + 1
                manifest = self._seal.sign(
                    Manifest.seal(draft, id=version, created_at=self._clock(), files=files)
                )
                write_atomic(content / MANIFEST, manifest.to_json())
                sync_tree(content)
                self._fence()
                if self._put_in_place(content, version):
                    return manifest

    def take(self, version: int, files: Mapping[str, bytes]) -> None:
        """Store a version that was published elsewhere, verified, in place of what is here under its id.

        Args:
            version: its id.
            files: their content by name.

        Raises:
            VersionCorruptError: a file is missing or altered; nothing was stored.
        """
        manifest = parse(str(files.get(MANIFEST, b""), errors="replace"), version)
        self._seal.check(manifest)
        names = [name for name in (DELTA, HEAD, RECORD) if name != RECORD or name in manifest.files]
        for name in names:
            _check(manifest, name, files.get(name, b""))
        with staging(self.root / "versions") as content:
            for name in (*names, MANIFEST):
                (content / name).write_bytes(files[name])
            sync_tree(content)
            while not self._put_in_place(content, version):
                if self.files(version) == {name: files[name] for name in (*names, MANIFEST)}:
                    return  # another process of this machine was first, and may be reading it
                self.drop(version)

    def files(self, version: int) -> dict[str, bytes]:
        """The content of a version's files by name, not verified; empty when it is not here."""
        folder = self._directory(version)
        try:
            return {file.name: file.read_bytes() for file in folder.iterdir()}
        except FileNotFoundError:
            return {}

    def drop(self, version: int) -> None:
        """Delete a version, at once or not at all; nothing happens when it is not here."""
        with staging(self.root / "versions") as aside, suppress(FileNotFoundError):
            self._directory(version).rename(aside / "dropped")

    def _put_in_place(self, content: Path, version: int) -> bool:
        """Rename a complete folder to a version's; False when there is one already."""
        try:
            content.rename(self._directory(version))
        except OSError:
            if self._directory(version).exists():  # another writer was faster
                return False
            raise
        sync_directory(self.root / "versions")
        return True

    def refuse(self, draft: Draft, delta: Tensors, head: Head, reasons: Sequence[str]) -> Path:
        """Keep a candidate the guard refused, with its reasons; the oldest of many go."""
        return self._refusals.add(draft, reasons, self._clock(), _tensor_files(delta, head))

    def refused(self) -> list[Path]:
        """The folders of refused candidates, oldest first."""
        return self._refusals.folders()

    def refusals(self) -> list[Refusal]:
        """Why candidates were refused, oldest first."""
        return self._refusals.read()

    def ids(self) -> list[int]:
        """Every published version that has its weights, ascending."""
        folders = (self.root / "versions").iterdir()
        return sorted(int(folder.name) for folder in folders if folder.name.isdigit())

    def pruned(self) -> list[int]:
        """Every version of which only the manifest is left, ascending."""
        here = set(self.ids())
        names = (path.stem for path in (self.root / "pruned").glob("*.json"))
        return sorted(int(name) for name in names if name.isdigit() and int(name) not in here)

    def prune(self, version: int) -> bool:
        """Delete a version's weights; its manifest stays. False where it had none.

        Raises:
            LeaseLostError: this writer needs a lease, and does not hold it.
        """
        self._fence()
        manifest = self.files(version).get(MANIFEST)
        if manifest is not None:
            self.bury(version, manifest)
        return manifest is not None

    def bury(self, version: int, manifest: bytes) -> None:
        """Keep the manifest of a version, and nothing else of it."""
        write_atomic(self._buried(version), manifest)
        self.drop(version)

    def prune_bases(self) -> list[str]:
        """Delete the bases that no version is a delta to, but for the youngest; their digests."""
        gone = []
        for directory in sorted((self.root / "base").glob("[0-9a-f]*")):
            if time.time() - directory.stat().st_mtime > BASE_GRACE_S:
                self.discard_base(directory.name)
                gone += [] if directory.exists() else [directory.name]
        return gone

    def sign(self, version: int) -> Manifest:
        """Sign a version that is sound as it is, whoever made it: a person's word.

        Raises:
            VersionError: there is none, or it is damaged.
        """
        manifest, kept = self._parsed(version), self._directory(version)
        for name in manifest.files if kept.exists() else ():
            self._verified(manifest, name)
        signed = self._seal.sign(manifest)
        write_atomic(kept / MANIFEST if kept.exists() else self._buried(version), signed.to_json())
        return signed

    def manifest(self, version: int) -> Manifest:
        """One manifest, its own digest and signature verified; also of a version that was pruned.

        Raises:
            VersionNotFoundError: no such version.
            VersionCorruptError: as `adaptsvc.versions.manifest.parse`, or not signed.
        """
        manifest = self._parsed(version)
        self._seal.check(manifest)
        return manifest

    def _parsed(self, version: int) -> Manifest:
        try:
            text = self._manifest_text(version)
        except FileNotFoundError as exc:
            known = self.ids()
            if version in known:
                raise VersionCorruptError(
                    f"{MANIFEST} of version {version} is missing; activate another version", version
                ) from exc
            raise VersionNotFoundError(
                f"there is no version {version}; there are {known[:1]} to {known[-1:]}", version
            ) from exc
        except UnicodeDecodeError as exc:
            raise VersionCorruptError(
                f"the manifest of version {version} is not text; activate another version", version
            ) from exc
        return parse(text, version)

    def _manifest_text(self, version: int) -> str:
        path = self._directory(version)
        if not path.exists() and self._buried(version).exists():
            return self._buried(version).read_text(encoding="utf-8")
        return (path / MANIFEST).read_text(encoding="utf-8")

    def load(self, version: int) -> Version:
        """One version, every digest verified.

        Raises:
            VersionNotFoundError: no such version, or it was pruned.
            VersionCorruptError: a file is missing, truncated or altered, or it is not signed.
        """
        manifest = self.manifest(version)
        if not self._directory(version).exists():
            raise VersionPrunedError(
                f"the weights of version {version} were deleted to keep versions.keep of them; expected one "
                "that is kept: pin a version before that, and activate another one now",
                version,
            )
        content = {name: self._verified(manifest, name) for name in (DELTA, HEAD)}
        return Version(
            manifest,
            tensors.from_bytes(content[DELTA], version),
            Head.from_bytes(content[HEAD], version),
        )

    def record(self, version: int) -> bytes:
        """What the round of a version was made of, its digest verified; empty where none was kept.

        Raises:
            VersionNotFoundError: no such version.
            VersionCorruptError: the file is missing or altered.
        """
        manifest = self.manifest(version)
        return self._verified(manifest, RECORD) if RECORD in manifest.files else b""

    def share(self, version: int) -> None:
        """Verify a version; whoever sees this folder has it.

        Raises:
            VersionError: as `load`.
        """
        self.load(version)

    def _verified(self, manifest: Manifest, name: str) -> bytes:
        path = self._directory(manifest.id) / name
        try:
            data = path.read_bytes()
        except FileNotFoundError as exc:
            raise VersionCorruptError(
                f"{name} of version {manifest.id} is missing; activate another version", manifest.id
            ) from exc
        _check(manifest, name, data)
        return data

    def _directory(self, version: int) -> Path:
        return self.root / "versions" / f"{version:06d}"

    def _buried(self, version: int) -> Path:
        return self.root / "pruned" / f"{version:06d}.json"


def _check(manifest: Manifest, name: str, data: bytes) -> None:
    found, expected = hashlib.sha256(data).hexdigest(), manifest.files.get(name)
    if found != expected:
        raise VersionCorruptError(
            f"{name} of version {manifest.id} was altered or cut: {len(data)} bytes with SHA-256 "
            f"{found[:12]}, the manifest says {str(expected)[:12]}; activate another version",
            manifest.id,
        )


def _tensor_files(delta: Tensors, head: Head) -> dict[str, bytes]:
    return {DELTA: tensors.to_bytes(delta), HEAD: head.to_bytes()}
