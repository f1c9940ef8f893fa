"""The pointer: compare-and-set, one winner per parent, and what a broken file does."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from itertools import chain
from pathlib import Path

import pytest

from adaptsvc.errors import PromotionConflictError, VersionCorruptError
from adaptsvc.versions.pointer import Current, FilePointer

RACERS, ROUNDS = 6, 5
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


def race(path: Path, racer: int) -> list[int]:
    """Try to follow each of ROUNDS parents; return the versions this racer promoted."""
    won, pointer = [], FilePointer(path)
    for parent in range(ROUNDS):
        while (pointer.read().version or 0) < parent * 100:
            pass
        expected = pointer.read().version
        if (expected or 0) // 100 != parent:
            continue
        try:
            won.append(pointer.compare_and_set(expected, (parent + 1) * 100 + racer).version or 0)
        except PromotionConflictError:
            continue
    return won


def assert_one_winner_per_round(path: Path, won: list[int]) -> None:
    assert sorted(version // 100 for version in won) == list(range(1, ROUNDS + 1))
    assert FilePointer(path).read() == Current(max(won), ROUNDS)


def test_before_the_first_version_nothing_serves(path: Path) -> None:
    assert FilePointer(path).read() == Current(None, 0)
    assert not path.exists()


def test_a_promotion_is_what_every_other_reader_sees(path: Path) -> None:
    assert FilePointer(path).compare_and_set(None, 0) == Current(0, 1)
    assert FilePointer(path).compare_and_set(0, 3) == Current(3, 2)
    assert FilePointer(path).read() == Current(3, 2)


@pytest.mark.parametrize("expected", [None, 0, 2])
def test_a_promotion_from_what_no_longer_serves_is_refused(
    path: Path, expected: int | None
) -> None:
    pointer = FilePointer(path)
    pointer.force(1)
    with pytest.raises(
        PromotionConflictError, match=f"version 5 was made from version {expected}, but 1 serves"
    ) as raised:
        pointer.compare_and_set(expected, 5)
    assert raised.value.version == 5
    assert pointer.read() == Current(1, 1)


def test_sequence_rises_with_every_change_even_back_to_the_same_version(path: Path) -> None:
    pointer = FilePointer(path)
    moves = [pointer.force(0), pointer.compare_and_set(0, 1), pointer.force(0), pointer.force(0)]
    assert moves == [Current(0, 1), Current(1, 2), Current(0, 3), Current(0, 4)]


def test_threads_that_race_have_one_winner_per_parent(path: Path) -> None:
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda racer=racer: won.extend(race(path, racer)))
        for racer in range(RACERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert_one_winner_per_round(path, won)


def test_processes_that_race_have_one_winner_per_parent(path: Path) -> None:
    with multiprocessing.get_context("forkserver").Pool(3) as pool:
        won = pool.starmap(race, [(path, racer) for racer in range(3)], chunksize=1)
    assert_one_winner_per_round(path, list(chain.from_iterable(won)))


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
        with pytest.raises(OSError, match="No space left"):
            pointer.compare_and_set(1, 2)
    assert pointer.read() == Current(1, 1)
    assert pointer.compare_and_set(1, 2) == Current(2, 2)
