"""A store of its own for a test, and one that many look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.versions.contract_store import (
    DELTA,
)
from tests.adaptsvc.versions.examples import draft, exporter, head
from tests.adaptsvc.versions.stores import ticking


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "store", clock=ticking())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> VersionStore:
    """A store with version 0 and one base; a test leaves it as it found it."""
    found = VersionStore(tmp_path_factory.mktemp("published"), clock=ticking())
    found.publish(draft(), DELTA, head())
    found.add_base(exporter())
    return found
