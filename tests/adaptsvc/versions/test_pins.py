"""Pins in a file keep the contract, and what is no list is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptsvc.errors import VersionCorruptError
from adaptsvc.versions.pins import FilePins, Pins
from tests.adaptsvc.versions.contract_pins import PinsContract


@pytest.fixture
def open_pins(tmp_path: Path) -> Callable[[], Pins]:
    return lambda: FilePins(tmp_path / "PINS")


class TestFilePins(PinsContract):
    """All of the contract."""


@pytest.mark.parametrize("content", [b"", b"{", b'"three"', b"3", b"[null]"])
def test_what_is_no_list_is_refused_and_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "PINS").write_bytes(content)
    with pytest.raises(VersionCorruptError, match="expected a list of versions; delete it"):
        FilePins(tmp_path / "PINS").read()


def test_nobody_pins_while_something_is_done_to_an_unpinned_version(tmp_path: Path) -> None:
    first, second = FilePins(tmp_path / "PINS"), FilePins(tmp_path / "PINS")
    pinner = threading.Thread(target=second.add, args=(1,))

    def act() -> None:
        pinner.start()
        pinner.join(0.3)
        assert pinner.is_alive()
        assert first.read() == frozenset()

    first.unless_pinned(1, act)
    pinner.join(timeout=60)
    assert first.read() == {1}
