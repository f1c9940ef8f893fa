"""A board in Redis keeps the contract, and a worker that lost its lease writes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adaptsvc.errors import LeaseLostError
from adaptsvc.redis.board import RedisBoard
from adaptsvc.redis.lease import NoLease, RedisLease
from adaptsvc.redis.link import Link
from adaptsvc.versions.board import Board
from tests.adaptsvc.versions.contract_board import BoardContract


@pytest.fixture
def open_board(open_link: Callable[..., Link]) -> Callable[[], Board]:
    def make() -> Board:
        link = open_link()
        return RedisBoard(link, NoLease(link))

    return make


class TestRedisBoard(BoardContract):
    """All of the contract."""


def test_a_worker_without_its_lease_writes_nothing(open_link: Callable[..., Link]) -> None:
    link = open_link()
    RedisBoard(link, NoLease(link)).write(b"before")
    board = RedisBoard(link, RedisLease(link, 15.0))
    with pytest.raises(LeaseLostError):
        board.write(b"after")
    assert board.read() == b"before"
