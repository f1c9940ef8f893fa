"""Links to the shared Redis that end with their test."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptsvc.redis.depot import RedisDepot
from adaptsvc.redis.lease import NoLease, RedisLease
from adaptsvc.redis.link import Link
from adaptsvc.sections import StateSettings
from adaptsvc.versions.seal import Seal
from adaptsvc.versions.shared import SharedStore
from adaptsvc.versions.store import VersionStore

Machine = Callable[..., SharedStore]


@pytest.fixture
def open_link(redis_settings: StateSettings) -> Iterator[Callable[..., Link]]:
    """`open_link(settings=..., **options)`: a link, by default to this test's state in the shared Redis."""
    links: list[Link] = []

    def make(settings: StateSettings = redis_settings, **options: Any) -> Link:
        links.append(Link(settings, **options))
        return links[-1]

    yield make
    for link in links:
        link.close()


@pytest.fixture
def link(open_link: Callable[..., Link]) -> Link:
    """One link to this test's state."""
    return open_link()


@pytest.fixture
def machine(tmp_path: Path, open_link: Callable[..., Link]) -> Machine:
    """`machine()`: the store on one more machine; `machine(folder=..., settings=..., lease=...)`."""
    numbers = itertools.count()

    def make(
        folder: str = "",
        settings: StateSettings | None = None,
        lease: RedisLease | None = None,
        seal: Seal | None = None,
    ) -> SharedStore:
        link = open_link(settings) if settings else open_link()
        local = VersionStore(tmp_path / (folder or f"machine-{next(numbers)}"), seal=seal)
        depot = RedisDepot(link, lease or NoLease(link), settings or StateSettings())
        return SharedStore(local, depot)

    return make
