"""Redis keeps the lease's contract; and its lease runs out by itself."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from adaptsvc.errors import LeaseLostError
from adaptsvc.redis.lease import NoLease, RedisLease
from adaptsvc.redis.link import Link
from adaptsvc.redis.pointer import RedisPointer
from adaptsvc.sections import StateSettings
from adaptsvc.versions.lease import held
from adaptsvc.versions.pointer import Current
from tests.adaptsvc.versions.contract_lease import LeaseBench, LeaseContract
from tests.redis_server import RedisServer

HOLD = """
import sys, time
from adaptsvc.sections import StateSettings
from adaptsvc.redis.lease import RedisLease
from adaptsvc.redis.link import Link
lease = RedisLease(Link(StateSettings(url=sys.argv[1], prefix=sys.argv[2])), 1.0)
print(lease.acquire(), lease.token, flush=True)
time.sleep(600)
"""


@pytest.fixture
def lease_bench(link: Link) -> LeaseBench:
    return LeaseBench(
        partial(RedisLease, link, 60),
        lambda: link.call(lambda client: client.delete(link.key("lease"))),
    )


class TestRedisLease(LeaseContract):
    """All of the contract."""


def test_a_lease_that_is_not_prolonged_runs_out(link: Link) -> None:
    slept, awake = RedisLease(link, 1.0), RedisLease(link, 60)
    assert slept.acquire()
    assert not awake.acquire()
    time.sleep(1.1)
    assert awake.acquire()
    assert awake.token == 2


def test_a_lease_that_is_prolonged_does_not_run_out(link: Link) -> None:
    lease = RedisLease(link, 2.0)
    with held(lease, threading.Event(), 0.1):
        for _ in range(5):
            time.sleep(0.5)
            assert not RedisLease(link, 60).acquire()
    assert lease.token == 0


def test_a_worker_whose_lease_ran_out_cannot_promote_even_if_nobody_took_it(link: Link) -> None:
    lease = RedisLease(link, 0.05)
    assert lease.acquire()
    pointer = RedisPointer(link, lease)
    time.sleep(0.1)
    lease.check()  # it does not know yet
    with pytest.raises(LeaseLostError, match="token 1 is no longer ours"):
        pointer.compare_and_set(None, 1)
    assert RedisPointer(link, NoLease(link)).read() == Current(None, 0)


def test_a_lease_that_ran_out_and_is_free_is_taken_again_with_a_higher_token(link: Link) -> None:
    lease = RedisLease(link, 60)
    assert lease.acquire()
    link.call(lambda client: client.pexpire(lease.key, 0))
    assert lease.acquire()
    assert lease.token == 2
    assert RedisPointer(link, lease).compare_and_set(None, 1) == Current(1, 1)


def test_a_taking_whose_answer_was_lost_is_the_same_taking_when_asked_again(link: Link) -> None:
    lease = RedisLease(link, 60)
    assert lease.acquire()
    lease._token = 0  # as if the answer had not come
    assert lease.acquire()
    assert lease.token == 1


def test_two_workers_at_once_and_the_one_that_slept_cannot_promote(
    shared_redis: RedisServer, redis_settings: StateSettings, link: Link
) -> None:
    """A real process takes the lease and sleeps; this one waits, takes over, promotes."""
    slept = subprocess.Popen(
        [sys.executable, "-c", HOLD, shared_redis.url, redis_settings.prefix],
        stdout=subprocess.PIPE,
    )
    assert slept.stdout is not None
    assert slept.stdout.readline() == b"True 1\n"
    lease = RedisLease(link, 60)
    started = time.monotonic()
    while not lease.acquire():
        assert time.monotonic() - started < 20
        time.sleep(0.02)
    assert lease.token == 2
    assert RedisPointer(link, lease).compare_and_set(None, 1) == Current(1, 1)
    slept.kill()
    slept.wait()
    slept.stdout.close()


def test_tokens_rise_over_kills_and_restarts(
    start_redis: Callable[..., RedisServer], open_link: Callable[..., Link]
) -> None:
    server, now, tokens = start_redis(persistent=True), [0.0], []
    link = open_link(StateSettings(url=server.url), clock=lambda: now[0])
    for _ in range(3):
        lease = RedisLease(link, 60)
        assert lease.acquire()
        tokens.append(lease.token)
        server.kill()
        server.start()
        now[0] += 60
        with pytest.raises(AssertionError):  # the lease outlived the server
            assert RedisLease(link, 60).acquire()
        assert lease.acquire()
        assert lease.token == tokens[-1]
        lease.release()
    assert tokens == [1, 2, 3]
