"""What every lease must do. Knows nothing of which lease it tests.

A test module subclasses `LeaseContract` and gives it the fixture `lease_bench`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from adaptsvc.errors import LeaseLostError, StateError
from adaptsvc.versions.lease import Lease


@dataclass(frozen=True)
class LeaseBench:
    """A lease, as several workers see it.

    Attributes:
        open: one more worker's view; it can be pickled.
        lose: whoever holds it does no longer, and is not told.
    """

    open: Callable[[], Lease]
    lose: Callable[[], object]


class LeaseContract:
    """All of the contract."""

    def test_the_first_to_ask_holds_it_and_nobody_else(self, lease_bench: LeaseBench) -> None:
        first, second = lease_bench.open(), lease_bench.open()
        assert first.acquire()
        assert not second.acquire()
        assert (first.token, second.token) == (1, 0)
        first.check()

    def test_whoever_does_not_hold_it_is_told_so(self, lease_bench: LeaseBench) -> None:
        lease = lease_bench.open()
        with pytest.raises(LeaseLostError, match="we hold no lease") as raised:
            lease.check()
        assert isinstance(raised.value, StateError)
        assert raised.value.token == 0

    def test_prolonging_keeps_the_token(self, lease_bench: LeaseBench) -> None:
        lease = lease_bench.open()
        assert [lease.acquire() for _ in range(3)] == [True] * 3
        assert lease.token == 1

    def test_a_lease_given_back_can_be_taken_and_every_taking_has_a_higher_token(
        self, lease_bench: LeaseBench
    ) -> None:
        tokens = []
        for lease in (lease_bench.open(), lease_bench.open(), lease_bench.open()):
            assert lease.acquire()
            tokens.append(lease.token)
            lease.release()
            assert lease.token == 0
            with pytest.raises(LeaseLostError):
                lease.check()
        assert tokens == [1, 2, 3]

    def test_the_same_worker_gets_a_higher_token_after_giving_it_back(
        self, lease_bench: LeaseBench
    ) -> None:
        lease = lease_bench.open()
        assert lease.acquire()
        lease.release()
        assert lease.acquire()
        assert lease.token == 2

    def test_a_worker_that_lost_it_is_told_when_it_prolongs_and_does_not_disturb_the_next(
        self, lease_bench: LeaseBench
    ) -> None:
        slept, awake, third = (lease_bench.open() for _ in range(3))
        assert slept.acquire()
        lease_bench.lose()
        assert awake.acquire()
        assert awake.token == 2
        assert not slept.acquire()
        with pytest.raises(LeaseLostError):
            slept.check()
        slept.release()
        awake.check()
        assert not third.acquire()

    def test_a_worker_that_gives_back_what_it_lost_does_not_take_it_from_the_next(
        self, lease_bench: LeaseBench
    ) -> None:
        slept, awake, third = (lease_bench.open() for _ in range(3))
        assert slept.acquire()
        lease_bench.lose()
        assert awake.acquire()
        slept.release()
        assert not third.acquire()
        assert awake.acquire()

    def test_giving_back_what_was_never_taken_does_nothing(self, lease_bench: LeaseBench) -> None:
        holder, other = lease_bench.open(), lease_bench.open()
        assert holder.acquire()
        other.release()
        assert not lease_bench.open().acquire()

    def test_of_many_that_ask_at_once_one_gets_it(self, lease_bench: LeaseBench) -> None:
        leases = [lease_bench.open() for _ in range(8)]
        start, won = threading.Barrier(len(leases)), list[Lease]()

        def take(lease: Lease) -> None:
            start.wait()
            if lease.acquire():
                won.append(lease)

        threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert [lease.token for lease in won] == [1]
