"""The pointer with a memory: it goes on saying what it said, over restarts, and only while it must."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adaptsvc.errors import StateRefusedError, StateUnavailableError, VersionCorruptError
from adaptsvc.versions.pointer import Current, FilePointer
from adaptsvc.versions.remembered import Remembered


class Shared(FilePointer):
    """A pointer that can be put out of reach."""

    problem: Exception | None = None

    def read(self) -> Current:
        if self.problem is not None:
            raise self.problem
        return super().read()


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path / "CURRENT")


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "LAST_SEEN"


@pytest.mark.parametrize("problem", [StateUnavailableError("gone"), StateRefusedError("password")])
def test_it_says_what_it_said_last_while_it_cannot_be_asked(
    shared: Shared, memory: Path, problem: Exception
) -> None:
    pointer = Remembered(shared, memory)
    shared.force(3)
    assert pointer.read() == Current(3, 1)
    shared.problem = problem
    for _ in range(2):
        assert pointer.read() == Current(3, 1)
    assert Remembered(shared, memory).read() == Current(3, 1)


def test_what_moved_meanwhile_is_seen_when_it_can_be_asked_again(
    shared: Shared, memory: Path
) -> None:
    pointer = Remembered(shared, memory)
    shared.force(3)
    pointer.read()
    shared.problem = StateUnavailableError("gone")
    pointer.read()
    shared.problem = None
    shared.force(4)
    assert pointer.read() == Current(4, 2)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"version": null, "sequence": 3}'])
def test_without_a_memory_it_says_why_it_cannot_be_asked(
    shared: Shared, memory: Path, content: bytes | None
) -> None:
    if content is not None:
        memory.write_bytes(content)
    shared.problem = StateUnavailableError("gone")
    with pytest.raises(StateUnavailableError, match="gone"):
        Remembered(shared, memory).read()


def test_what_is_no_pointer_is_not_covered_up(shared: Shared, memory: Path) -> None:
    pointer = Remembered(shared, memory)
    shared.force(3)
    pointer.read()
    shared.problem = VersionCorruptError("broken")
    with pytest.raises(VersionCorruptError):
        pointer.read()


def test_an_emptied_state_is_told_as_it_is_and_not_remembered(shared: Shared, memory: Path) -> None:
    pointer = Remembered(shared, memory)
    shared.force(3)
    pointer.read()
    (memory.parent / "CURRENT").unlink()
    assert pointer.read() == Current(None, 0)
    shared.problem = StateUnavailableError("gone")
    assert pointer.read() == Current(3, 1)


def test_a_disk_that_is_full_does_not_keep_a_move_from_being_seen(
    shared: Shared, memory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pointer = Remembered(shared, memory)
    shared.force(3)

    def disk_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    assert [pointer.read() for _ in range(3)] == [Current(3, 1)] * 3
    assert len(caplog.records) == 1


def test_moves_go_through(shared: Shared, memory: Path) -> None:
    pointer = Remembered(shared, memory)
    assert pointer.compare_and_set(None, 1) == Current(1, 1)
    assert pointer.force(0) == Current(0, 2)
    assert shared.read() == Current(0, 2)
