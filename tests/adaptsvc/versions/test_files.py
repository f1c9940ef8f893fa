"""Atomic writing: a failure leaves the old, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adaptsvc.errors import DiskFullError
from adaptsvc.versions.files import (
    CHUNK_BYTES,
    sha256,
    staging,
    sweep,
    sync_directory,
    sync_tree,
    write_atomic,
)


def disk_full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES + 1])
def test_sha256_is_the_digest_of_the_content(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_write_atomic_makes_and_replaces_a_file_and_leaves_nothing_beside_it(
    tmp_path: Path,
) -> None:
    for data in (b"first", b"second, longer", b""):
        write_atomic(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failing_sync_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(DiskFullError, match="no room for"):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_file_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def record(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append(("folder" if name.is_dir() else "file", (tmp_path / "file").exists()))

    monkeypatch.setattr(os, "fsync", record)
    write_atomic(tmp_path / "file", b"data")
    assert seen == [("file", False), ("folder", True)]


def test_sync_tree_syncs_every_file_and_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
    )
    sync_tree(tmp_path)
    assert sorted(synced[:-1]) == ["a", "b"]
    assert synced[-1] == tmp_path.name


def test_no_descriptor_is_left_open_when_a_sync_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"1")
    monkeypatch.setattr(os, "fsync", disk_full)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for sync in (sync_tree, sync_directory):
        with pytest.raises(OSError, match="No space left"):
            sync(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_staging_gives_an_empty_folder_beside_its_destination(tmp_path: Path) -> None:
    with staging(tmp_path / "new" / "parent") as content:
        assert list(content.iterdir()) == []
        assert content.parents[1] == tmp_path / "new" / "parent"
        (content / "file").write_bytes(b"x")
        content.rename(tmp_path / "new" / "parent" / "done")
    assert [path.name for path in (tmp_path / "new" / "parent").iterdir()] == ["done"]
    assert (tmp_path / "new" / "parent" / "done" / "file").read_bytes() == b"x"


def fail_while_staging(parent: Path) -> None:
    with staging(parent) as content:
        (content / "file").write_bytes(b"x")
        raise KeyboardInterrupt


def test_what_a_failing_caller_leaves_in_staging_is_deleted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_while_staging(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_with_what_is_left_on_it_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(
        DiskFullError, match=r"the disk at \S+ has \d+ bytes free; free some"
    ) as raised:
        write_atomic(tmp_path / "file", b"new")
    assert raised.value.path == tmp_path / "file"
    assert raised.value.disk.is_mount()
    assert tmp_path.is_relative_to(raised.value.disk)
    assert str(raised.value.disk) in str(raised.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_error_that_is_no_full_disk_stays_what_it_is(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match="other") as raised, staging(tmp_path):
        raise OSError(number, "other")
    assert raised.value.errno == number


def test_what_a_killed_process_was_staging_is_swept_and_what_another_still_stages_is_not(
    tmp_path: Path,
) -> None:
    ours, old = tmp_path / "versions", 1e9
    with staging(ours) as writing:
        with subprocess.Popen(
            [sys.executable, "-c", STAGE_AND_DIE, str(ours)], cwd=Path(__file__).parents[3]
        ) as other:
            assert other.wait(60) == -signal.SIGKILL
        assert sweep(tmp_path) == 0, "it may be so young that it is not locked yet"
        for folder in ours.iterdir():
            os.utime(folder, (old, old))
        assert sweep(tmp_path) == 1
        assert writing.is_dir()
        assert [folder.name for folder in ours.iterdir()] == [writing.parent.name]


STAGE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from adaptsvc.versions.files import staging
with staging(Path(sys.argv[1])) as content:
    (content / "file").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
