"""Writing so that a crash leaves the old or the new, never half; it knows nothing of what is written."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptsvc.errors import DiskFullError

CHUNK_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
STAGING, LOCK = ".staging-", "lock"
YOUNG_S = 60.0  # a folder is made a moment before it is locked


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Say of a full disk which one it is.

    Args:
        path: what is written, or the folder where it is.

    Raises:
        DiskFullError: in place of the system's error.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno not in FULL:
            raise
        disk = path.absolute()
        while not disk.is_mount():
            disk = disk.parent
        raise DiskFullError(path, disk, shutil.disk_usage(disk).free) from exc


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file: temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises:
        DiskFullError: there is no room; the file is as it was.
    """
    with room_for(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make every file of a folder, and the folder, durable."""
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(path)


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """A temporary folder beside its destination; what the caller leaves in it is deleted.

    Raises:
        DiskFullError: there was no room for what the caller wrote.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with (
        room_for(parent),
        tempfile.TemporaryDirectory(dir=parent, prefix=STAGING, ignore_cleanup_errors=True) as name,
        (Path(name) / LOCK).open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
        inner = Path(name) / "content"
        inner.mkdir()
        yield inner


def sweep(root: Path) -> int:
    """Delete what killed processes left of `staging` in the folders under `root`; how many there were.

    What a process is still writing stays.
    """
    swept = 0
    for left in root.glob(f"*/{STAGING}*"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
            swept += 1
    return swept


def _is_abandoned(folder: Path) -> bool:
    try:
        if abs(time.time() - folder.stat().st_mtime) < YOUNG_S:
            return False
        with (folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is locked, or gone by now
        return False
    return True
