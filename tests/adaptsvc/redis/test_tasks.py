"""Requests in Redis keep the contract, and what is no request is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from adaptsvc.errors import VersionCorruptError
from adaptsvc.redis.lease import NoLease, RedisLease
from adaptsvc.redis.link import Link
from adaptsvc.redis.tasks import RedisTasks
from adaptsvc.versions.tasks import Tasks
from tests.adaptsvc.versions.contract_tasks import FIRST, TasksContract


@pytest.fixture
def open_tasks(open_link: Callable[..., Link]) -> Callable[[], Tasks]:
    def make() -> Tasks:
        link = open_link()
        return RedisTasks(link, NoLease(link))

    return make


@pytest.fixture
def open_fenced(open_link: Callable[..., Link]) -> Callable[[bool], Tasks]:
    def make(ours: bool) -> Tasks:
        link = open_link()
        lease = RedisLease(link, 60)
        assert not ours or lease.acquire()
        return RedisTasks(link, lease)

    return make


class TestRedisTasks(TasksContract):
    """All of the contract."""


def test_a_worker_whose_lease_went_to_another_answers_nothing(
    open_link: Callable[..., Link], open_tasks: Callable[[], Tasks]
) -> None:
    link = open_link()
    lease = RedisLease(link, 60)
    assert lease.acquire()
    link.call(lambda client: client.set(lease.key, "99:another"))
    with pytest.raises(Exception, match="another worker"):
        RedisTasks(link, lease).note_configured("abc")
    assert open_tasks().read().configured == ""


def _set(client: Any, *, key: str, name: str, value: str) -> None:
    client.hset(key, name, value)


@pytest.mark.parametrize(
    "fields",
    [{"id": "one"}, {"id": "1", "task": "[]"}, {"outcome": "{"}, {"id": "1", "task": "{}"}],
)
def test_what_is_no_request_is_refused_and_asking_begins_anew(
    link: Link, open_tasks: Callable[[], Tasks], fields: dict[str, str]
) -> None:
    for name, value in fields.items():
        link.call(partial(_set, key=link.key("classes"), name=name, value=value))
    with pytest.raises(VersionCorruptError, match="versions classes --set"):
        open_tasks().read()
    assert open_tasks().ask(FIRST).task == FIRST
    assert open_tasks().read().stage == "waiting"
