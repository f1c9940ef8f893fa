"""Reports in Redis keep the contract, and a worker that lost its lease forgets none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adaptsvc.errors import LeaseLostError
from adaptsvc.redis.board import SHADOW, RedisBoard
from adaptsvc.redis.lease import NoLease, RedisLease
from adaptsvc.redis.link import Link
from adaptsvc.redis.reports import RedisReports
from adaptsvc.versions.reports import Reports
from tests.adaptsvc.versions.contract_reports import ReportsContract


@pytest.fixture
def open_reports(open_link: Callable[..., Link]) -> Callable[[], Reports]:
    def make() -> Reports:
        link = open_link()
        return RedisReports(link, NoLease(link))

    return make


class TestRedisReports(ReportsContract):
    """All of the contract."""


def test_a_worker_without_its_lease_forgets_none(open_link: Callable[..., Link]) -> None:
    link = open_link()
    reports = RedisReports(link, RedisLease(link, 15.0))
    reports.write("a1", b"one")
    with pytest.raises(LeaseLostError):
        reports.clear()
    assert reports.read() == {"a1": b"one"}


def test_the_board_of_candidates_is_not_that_of_drift(open_link: Callable[..., Link]) -> None:
    link = open_link()
    drift, shadow = (RedisBoard(link, NoLease(link), *name) for name in ((), (SHADOW,)))
    drift.write(b"drift")
    shadow.write(b"shadow")
    assert (drift.read(), shadow.read()) == (b"drift", b"shadow")
