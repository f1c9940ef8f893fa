"""What every pointer must do. Knows nothing of which pointer it tests.

A test module subclasses `PointerContract` and gives it the fixture `pointer_bench`.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import pytest

from adaptsvc.errors import (
    LeaseLostError,
    PromotionConflictError,
    PromotionHeldError,
    VersionCorruptError,
)
from adaptsvc.versions.lease import Lease
from adaptsvc.versions.pointer import Current, Pointer

RACERS, ROUNDS = 6, 5


@dataclass(frozen=True)
class PointerBench:
    """A pointer, as several processes see it.

    Attributes:
        open: one more view of it, that needs no lease; it can be pickled.
        lease: one more worker's lease.
        fenced: the pointer of the worker with that lease.
        lose: whoever holds the lease does no longer, and is not told.
        damage: what is there is no pointer any more.
    """

    open: Callable[[], Pointer]
    lease: Callable[[], Lease]
    fenced: Callable[[Lease], Pointer]
    lose: Callable[[], object]
    damage: Callable[[], object]


def race(open_pointer: Callable[[], Pointer], racer: int) -> list[int]:
    """Try to follow each of ROUNDS parents; return the versions this racer promoted."""
    won, pointer = [], open_pointer()
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


def assert_one_winner_per_round(pointer: Pointer, won: list[int]) -> None:
    assert sorted(version // 100 for version in won) == list(range(1, ROUNDS + 1))
    assert pointer.read() == Current(max(won), ROUNDS)


class PointerContract:
    """All of the contract."""

    def test_before_the_first_version_nothing_serves(self, pointer_bench: PointerBench) -> None:
        assert pointer_bench.open().read() == Current(None, 0)

    def test_a_promotion_is_what_every_other_reader_sees(self, pointer_bench: PointerBench) -> None:
        assert pointer_bench.open().compare_and_set(None, 0) == Current(0, 1)
        assert pointer_bench.open().compare_and_set(0, 3) == Current(3, 2)
        assert pointer_bench.open().read() == Current(3, 2)

    @pytest.mark.parametrize("expected", [None, 0, 2])
    def test_a_promotion_from_what_no_longer_serves_is_refused(
        self, pointer_bench: PointerBench, expected: int | None
    ) -> None:
        pointer = pointer_bench.open()
        pointer.force(1)
        with pytest.raises(
            PromotionConflictError,
            match=f"version 5 was made from version {expected}, but 1 serves",
        ) as raised:
            pointer.compare_and_set(expected, 5)
        assert raised.value.version == 5
        assert pointer.read() == Current(1, 1)

    def test_a_promotion_from_a_version_where_none_serves_is_refused(
        self, pointer_bench: PointerBench
    ) -> None:
        pointer = pointer_bench.open()
        with pytest.raises(PromotionConflictError, match="from version 0, but None serves"):
            pointer.compare_and_set(0, 1)
        assert pointer.read() == Current(None, 0)

    def test_sequence_rises_with_every_change_even_back_to_the_same_version(
        self, pointer_bench: PointerBench
    ) -> None:
        pointer = pointer_bench.open()
        moves = [
            pointer.force(0),
            pointer.compare_and_set(0, 1),
            pointer.force(0),
            pointer.force(0),
        ]
        assert moves == [Current(0, 1), Current(1, 2), Current(0, 3), Current(0, 4)]

    def test_threads_that_race_have_one_winner_per_parent(
        self, pointer_bench: PointerBench
    ) -> None:
        won: list[int] = []
        threads = [
            threading.Thread(target=lambda racer=racer: won.extend(race(pointer_bench.open, racer)))
            for racer in range(RACERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert_one_winner_per_round(pointer_bench.open(), won)

    def test_processes_that_race_have_one_winner_per_parent(
        self, pointer_bench: PointerBench
    ) -> None:
        with multiprocessing.get_context("forkserver").Pool(3) as pool:
            jobs = [(pointer_bench.open, racer) for racer in range(3)]
            won = pool.starmap(race, jobs, chunksize=1)
        assert_one_winner_per_round(pointer_bench.open(), list(chain.from_iterable(won)))

    def test_what_is_no_pointer_is_refused_naming_it_and_what_to_do(
        self, pointer_bench: PointerBench
    ) -> None:
        pointer = pointer_bench.open()
        pointer.force(1)
        pointer_bench.damage()
        expected = (
            r" holds b'.*expected a version and a sequence; run 'adaptsvc versions activate N'"
        )
        with pytest.raises(VersionCorruptError, match=expected):
            pointer.read()
        with pytest.raises(VersionCorruptError, match=expected):
            pointer.compare_and_set(1, 2)
        with pytest.raises(VersionCorruptError):
            pointer.read()

    def test_force_mends_what_is_no_pointer_with_a_sequence_above_any_before(
        self, pointer_bench: PointerBench
    ) -> None:
        pointer = pointer_bench.open()
        before = [pointer.force(0).sequence for _ in range(3)]
        pointer_bench.damage()
        mended = pointer.force(2)
        assert pointer.read() == mended
        assert mended.version == 2
        assert mended.sequence > max(before)

    def test_the_worker_with_the_lease_promotes(self, pointer_bench: PointerBench) -> None:
        lease = pointer_bench.lease()
        assert lease.acquire()
        assert pointer_bench.fenced(lease).compare_and_set(None, 4) == Current(4, 1)

    def test_a_worker_that_never_took_the_lease_cannot_promote(
        self, pointer_bench: PointerBench
    ) -> None:
        with pytest.raises(LeaseLostError, match="we hold no lease"):
            pointer_bench.fenced(pointer_bench.lease()).compare_and_set(None, 4)
        assert pointer_bench.open().read() == Current(None, 0)

    def test_a_worker_whose_lease_is_another_ones_cannot_promote(
        self, pointer_bench: PointerBench
    ) -> None:
        """It slept, does not know, and is right about the parent: the token alone stops it."""
        slept, awake = pointer_bench.lease(), pointer_bench.lease()
        assert slept.acquire()
        late = pointer_bench.fenced(slept)
        late.compare_and_set(None, 0)
        pointer_bench.lose()
        assert awake.acquire()
        with pytest.raises(
            LeaseLostError, match="the lease with token 1 is no longer ours"
        ) as raised:
            late.compare_and_set(0, 1)
        assert raised.value.token == 1
        assert pointer_bench.open().read() == Current(0, 1)
        assert pointer_bench.fenced(awake).compare_and_set(0, 2) == Current(2, 2)

    def test_a_worker_that_gave_its_lease_back_cannot_promote(
        self, pointer_bench: PointerBench
    ) -> None:
        lease = pointer_bench.lease()
        assert lease.acquire()
        lease.release()
        with pytest.raises(LeaseLostError):
            pointer_bench.fenced(lease).compare_and_set(None, 4)

    def test_a_person_needs_no_lease(self, pointer_bench: PointerBench) -> None:
        lease = pointer_bench.lease()
        assert lease.acquire()
        assert pointer_bench.open().compare_and_set(None, 0) == Current(0, 1)
        assert pointer_bench.fenced(pointer_bench.lease()).force(3) == Current(3, 2)

    def test_nothing_is_promoted_over_a_held_version_until_it_is_let_go(
        self, pointer_bench: PointerBench
    ) -> None:
        lease = pointer_bench.lease()
        assert lease.acquire()
        worker, person = pointer_bench.fenced(lease), pointer_bench.open()
        assert person.force(3, hold=True) == Current(3, 1, held=True) == pointer_bench.open().read()
        with pytest.raises(PromotionHeldError, match="version 3 serves and is held; let go of it"):
            worker.compare_and_set(3, 4)
        assert person.read() == Current(3, 1, held=True)
        assert person.force(3) == Current(3, 2)
        assert worker.compare_and_set(3, 4) == Current(4, 3)
