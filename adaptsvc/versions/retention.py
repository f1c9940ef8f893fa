"""Which versions stay, and the deletion of the others; it knows nothing of where they are kept.

Kept are the newest, the pinned, the candidates on trial, the one that serves, and of each of these the
parent, which a worker goes back to and a round is run again from, and the zero-shot version it goes back to
in the end; and the first version. Of the others the manifest stays, so that the history and the line of
descent are whole; the weights go, and with them the bases that no version is a delta to any more.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from adaptsvc.errors import VersionError
from adaptsvc.versions.pins import Pins
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pruning comes to.

    Attributes:
        kept: why each version stays, by its id.
        removed: the versions that go, ascending.
    """

    kept: Mapping[int, str]
    removed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted: versions, and bases by their digest."""

    versions: tuple[int, ...]
    bases: tuple[str, ...]


def plan(
    parents: Mapping[int, int | None],
    existing: Collection[int],
    *,
    keep: int,
    serving: int | None,
    pinned: Collection[int],
) -> Plan:
    """Which versions stay.

    Args:
        parents: of every version whose manifest can be read, those that were deleted too.
        existing: the versions that have weights.
        keep: how many of the newest stay.
        serving: the one that serves.
        pinned: those that people keep.

    Example:
        >>> chain = {0: None, 1: 0, 2: 1, 3: 2, 4: 3}
        >>> plan(chain, chain, keep=1, serving=4, pinned=[]).removed
        (1, 2)
    """
    kept: dict[int, str] = {}

    def stays(version: int | None, why: str) -> None:
        if version is not None and version in existing:
            kept.setdefault(version, why)

    stays(serving, "serves")
    for version in sorted(pinned):
        stays(version, "pinned")
    for version in sorted(existing)[-keep:]:
        stays(version, f"one of the newest {keep}")
    stays(min(existing, default=None), "the first")
    for version in sorted(set(existing) - set(parents)):
        stays(version, "cannot be read")  # a person has to look at it first
    for version in list(kept):
        stays(parents.get(version), f"parent of {version}")
        stays(_root(version, parents), f"zero-shot version of {version}")
    return Plan(kept, tuple(sorted(set(existing) - set(kept))))


def make_plan(
    store: Store, pointer: Pointer, pins: Pins, keep: int, tried: Collection[int] = ()
) -> Plan:
    """Which versions of a store stay; those that are tried, or wait for it, do.

    Raises:
        StateError: the shared state does not answer.
        VersionCorruptError: pointer or pins cannot be read.
    """
    existing = store.ids()
    parents: dict[int, int | None] = {}
    for version in (*store.pruned(), *existing):
        try:
            parents[version] = store.manifest(version).parent
        except VersionError as exc:
            log.warning("version %d stays for now: %s", version, exc)
    serving, pinned = pointer.read().version, pins.read()
    stay = pinned.union(tried)
    return plan(parents, existing, keep=keep, serving=serving, pinned=stay)


def prune(
    store: Store, pointer: Pointer, pins: Pins, keep: int, tried: Collection[int] = ()
) -> Pruned:
    """Delete what need not stay; what came to serve or was pinned meanwhile does.

    Raises:
        LeaseLostError: this writer needs a lease, and does not hold it.
        StateError: the shared state does not answer; what was deleted so far is.
    """
    removed = []
    for version in make_plan(store, pointer, pins, keep, tried).removed:

        def act(version: int = version) -> None:
            if pointer.read().version != version and store.prune(version):
                removed.append(version)

        pins.unless_pinned(version, act)
    bases = store.prune_bases()
    if removed or bases:
        log.info("pruned versions %s and %d bases", removed, len(bases))
    return Pruned(tuple(removed), tuple(bases))


def _root(version: int, parents: Mapping[int, int | None]) -> int:
    """The first ancestor that is known of."""
    while (parent := parents.get(version)) is not None and parent in parents:
        version = parent
    return version
