"""The file keeps the pointer's contract, and what it alone promises: broken files, failing writes."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from adaptsvc.errors import DiskFullError, VersionCorruptError
from adaptsvc.versions.lease import FileLease, Lease
from adaptsvc.versions.pointer import Current, FilePointer
from tests.adaptsvc.versions.contract_pointer import PointerBench, PointerContract

BROKEN = {
    "empty": b"",
    "cut": b'{"version": 1, "sequ',
    "not json": b"version 1",
    "not text": b"\xff\xfe\x00\x9c",
    "list": b"[1, 2]",
    "number": b"7",
    "key missing": b'{"version": 1}',
    "null": b'{"version": null, "sequence": 3}',
    "word": b'{"version": "one", "sequence": 3}',
    "infinite": b'{"version": 1, "sequence": 1e999}',
}
broken_content = pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "CURRENT"


@pytest.fixture
def pointer_bench(path: Path) -> PointerBench:
    def fenced(lease: Lease) -> FilePointer:
        return FilePointer(path, fence=lease.check)

    return PointerBench(
        open=partial(FilePointer, path),
        lease=lambda: FileLease(path.with_name("WORKER")),
        fenced=fenced,
        lose=path.with_name(".WORKER.lock").unlink,
        damage=lambda: path.write_bytes(b"{"),
    )


class TestFilePointer(PointerContract):
    """All of the contract."""


def test_reading_makes_no_file(path: Path) -> None:
    FilePointer(path).read()
    assert not path.exists()


@broken_content
def test_a_broken_file_is_refused_naming_it_and_what_to_do(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(
        VersionCorruptError, match=r"CURRENT holds .*run 'adaptsvc versions activate"
    ):
        FilePointer(path).read()
    with pytest.raises(VersionCorruptError):
        FilePointer(path).compare_and_set(1, 2)
    assert path.read_bytes() == content


@broken_content
def test_force_mends_a_broken_file_with_a_sequence_above_any_before(
    path: Path, content: bytes
) -> None:
    pointer = FilePointer(path)
    before = [pointer.force(0).sequence for _ in range(3)]
    path.write_bytes(content)
    mended = pointer.force(2)
    assert pointer.read() == mended
    assert mended.version == 2
    assert mended.sequence > max(before)


def test_a_failing_write_leaves_the_pointer_where_it_was_and_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointer = FilePointer(path)
    pointer.force(1)

    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk_full)
        with pytest.raises(DiskFullError, match="no room for"):
            pointer.compare_and_set(1, 2)
    assert pointer.read() == Current(1, 1)
    assert pointer.compare_and_set(1, 2) == Current(2, 2)
