"""The history of versions, and what people do to it; it knows nothing of HTTP or of printing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from adaptsvc.errors import StateError, VersionError
from adaptsvc.shadow_record import ShadowSummary
from adaptsvc.versions.manifest import Manifest
from adaptsvc.versions.pins import Pins
from adaptsvc.versions.pointer import Current, Pointer
from adaptsvc.versions.refusals import Refusal
from adaptsvc.versions.shadow_desk import ShadowDesk
from adaptsvc.versions.store import Store

Condition: TypeAlias = Literal["kept", "pruned", "refused"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One version.

    Attributes:
        id: its id.
        condition: with its weights, without, or such that no service takes it.
        serving: whether the pointer is at it.
        pinned: whether it is kept whatever its age; None while the shared state is out of reach.
        manifest: what it says of itself; None where that cannot be believed.
        code: why it is refused, in a word; empty where it is not.
        reason: the same for people.
        shadow: how it stands as a candidate: on trial, or waiting; empty where it is none.
    """

    id: int
    condition: Condition
    serving: bool
    pinned: bool | None
    manifest: Manifest | None
    code: str = ""
    reason: str = ""
    shadow: str = ""


@dataclass(frozen=True, slots=True)
class Desk:
    """What people look at and change.

    Args:
        store: where versions are.
        pointer: which one serves.
        pins: which are kept.
        shadow: which are tried on live images; None where nothing is.
    """

    store: Store
    pointer: Pointer
    pins: Pins
    shadow: ShadowDesk | None = None

    def ids(self) -> list[int]:
        """Every version there is or was, ascending."""
        return sorted({*self.store.ids(), *self.store.pruned()})

    def entries(self, ids: list[int]) -> list[Entry]:
        """These versions, by what their manifests say."""
        kept, pinned, serving = set(self.store.ids()), self._pinned(), self.pointer.read().version
        tried = self._tried()
        return [
            replace(
                self._entry(
                    each,
                    kept=each in kept,
                    pinned=None if pinned is None else each in pinned,
                    serving=each == serving,
                ),
                shadow=tried.get(each, ""),
            )
            for each in ids
        ]

    def entry(self, version: int) -> Entry:
        """One version, every file of it verified.

        Raises:
            VersionNotFoundError: there never was one.
        """
        self._must_be(version)
        (found,) = self.entries([version])
        if found.condition == "kept":
            try:
                self.store.load(version)
            except VersionError as exc:
                return Entry(
                    version, "refused", found.serving, found.pinned, None, exc.code, str(exc)
                )
        return found

    def refusals(self) -> list[Refusal]:
        """The candidates that the guard refused, oldest first."""
        return self.store.refusals()

    def shadow_summary(self) -> ShadowSummary | None:
        """What is known of candidates on trial; None where nothing is tried, or while it is out of reach."""
        try:
            return None if self.shadow is None else self.shadow.summary()
        except StateError:  # the history is told without it
            return None

    def activate(self, version: int, *, hold: bool) -> Current:
        """Make a version serve; the next round starts from it. With `hold` there is none until it ends.

        Raises:
            VersionError: it is not there, or not sound.
        """
        with self._kept(version):
            self.store.share(version)
            return self.pointer.force(version, hold=hold)

    def pin(self, version: int) -> None:
        """Keep a version whatever its age.

        Raises:
            VersionError: it is not there, or was pruned already.
        """
        added = self.pins.add(version)  # first, or it could be pruned in between
        try:
            self.store.load(version)
        except VersionError:
            if added:
                self.pins.remove(version)
            raise

    def unpin(self, version: int) -> None:
        """Let a version go when it is old.

        Raises:
            VersionNotFoundError: there never was one.
        """
        if not self.pins.remove(version):
            self._must_be(version)

    @contextmanager
    def _kept(self, version: int) -> Iterator[None]:
        """Nobody prunes it meanwhile."""
        added = self.pins.add(version)
        try:
            yield
        finally:
            if added:
                self.pins.remove(version)

    def _pinned(self) -> frozenset[int] | None:
        try:
            return self.pins.read()
        except StateError:  # the history is told without them
            return None

    def _tried(self) -> Mapping[int, str]:
        try:
            return {} if self.shadow is None else self.shadow.read().versions
        except StateError:
            return {}

    def _must_be(self, version: int) -> None:
        if version not in self.ids():
            self.store.manifest(version)  # says what there is

    def _entry(self, version: int, *, kept: bool, pinned: bool | None, serving: bool) -> Entry:
        try:
            manifest = self.store.manifest(version)
        except VersionError as exc:
            return Entry(version, "refused", serving, pinned, None, exc.code, str(exc))
        return Entry(version, "kept" if kept else "pruned", serving, pinned, manifest)
