"""Redis keeps the pointer's contract; and its pointer survives kill -9."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from adaptsvc.errors import StateUnavailableError, VersionCorruptError
from adaptsvc.redis.lease import NoLease, RedisLease
from adaptsvc.redis.link import Link
from adaptsvc.redis.pointer import RedisPointer
from adaptsvc.sections import StateSettings
from adaptsvc.versions.lease import Lease
from adaptsvc.versions.pointer import Current
from tests.adaptsvc.versions.contract_pointer import PointerBench, PointerContract
from tests.redis_server import RedisServer

DAMAGED = {
    "version missing": {"sequence": "3"},
    "sequence missing": {"version": "3"},
    "word": {"version": "one", "sequence": "3"},
    "empty": {"version": "", "sequence": "3"},
    "negative": {"version": "-1", "sequence": "-3"},
    "fraction": {"version": "1", "sequence": "3.5"},
}


def open_pointer(settings: StateSettings) -> RedisPointer:
    """In whatever process this is."""
    link = Link(settings)
    return RedisPointer(link, NoLease(link))


@pytest.fixture
def pointer_bench(redis_settings: StateSettings, link: Link) -> PointerBench:
    def fenced(lease: Lease) -> RedisPointer:
        assert isinstance(lease, RedisLease)
        return RedisPointer(link, lease)

    def damage() -> None:
        link.call(lambda client: client.hset(link.key("pointer"), "version", "one"))

    return PointerBench(
        open=partial(open_pointer, redis_settings),
        lease=lambda: RedisLease(link, 60),
        fenced=fenced,
        lose=lambda: link.call(lambda client: client.delete(link.key("lease"))),
        damage=damage,
    )


class TestRedisPointer(PointerContract):
    """All of the contract."""


@pytest.fixture
def pointer(link: Link) -> RedisPointer:
    return RedisPointer(link, NoLease(link))


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_pointer_is_refused_and_mended(
    link: Link, pointer: RedisPointer, content: dict[str, str]
) -> None:
    items = [part for item in content.items() for part in item]
    link.call(lambda client: client.hset(link.key("pointer"), items=items))
    with pytest.raises(VersionCorruptError, match=r"}:pointer in Redis at 127.0.0.1:\d+ holds"):
        pointer.compare_and_set(3, 4)
    mended = pointer.force(2)
    assert pointer.read() == mended
    assert mended.sequence > 1_000_000_000
    assert pointer.compare_and_set(2, 3) == Current(3, mended.sequence + 1)


def test_two_installations_in_one_redis_do_not_meet(
    open_link: Callable[..., Link], redis_settings: StateSettings, pointer: RedisPointer
) -> None:
    other = open_link(redis_settings.model_copy(update={"prefix": f"{redis_settings.prefix}2"}))
    pointer.force(7)
    assert RedisPointer(other, NoLease(other)).read() == Current(None, 0)


def test_every_key_of_ours_has_the_prefix_in_braces(
    link: Link, pointer: RedisPointer, redis_settings: StateSettings
) -> None:
    assert RedisLease(link, 60).acquire()
    pointer.force(1)
    keys = link.call(lambda client: list(client.scan_iter(f"*{redis_settings.prefix}*")))
    assert len(keys) == 3
    assert all(key.startswith(f"{{{redis_settings.prefix}}}:".encode()) for key in keys)


def test_the_pointer_only_rises_over_kills_and_restarts(
    start_redis: Callable[..., RedisServer], open_link: Callable[..., Link]
) -> None:
    """The server is killed in the middle of promotions; what was answered is never taken back."""
    server = start_redis(persistent=True)
    now = [0.0]
    link = open_link(StateSettings(url=server.url), clock=lambda: now[0])
    pointer, seen = RedisPointer(link, NoLease(link)), Current(None, 0)
    for version in range(1, 13):
        moved = pointer.compare_and_set(seen.version, version)
        assert moved == Current(version, seen.sequence + 1)
        seen = moved
        if version % 3 == 0:
            server.kill()
            with pytest.raises(StateUnavailableError):
                pointer.compare_and_set(version, version + 1)
            server.start()
            now[0] += 60  # the backoff is over
            assert pointer.read() == seen
