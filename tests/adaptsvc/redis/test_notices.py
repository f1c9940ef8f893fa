"""Notices: a move rings at once, and a lost subscription comes back by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from adaptsvc.redis import notices as notices_module
from adaptsvc.redis.lease import NoLease
from adaptsvc.redis.link import Link
from adaptsvc.redis.notices import Notices
from adaptsvc.redis.pointer import RedisPointer
from adaptsvc.sections import StateSettings
from tests.redis_server import RedisServer


class Bell:
    """Counts how often it rang."""

    def __init__(self) -> None:
        self.rung = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.rung += 1
            self._changed.notify_all()

    def wait_for(self, count: int, timeout_s: float = 20) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.rung >= count, timeout_s)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def listen(bell: Bell) -> Iterator[Callable[[Link], None]]:
    started: list[Notices] = []
    yield lambda link: started.append(Notices(link, bell))
    for notices in started:
        notices.close()


def test_every_move_rings_and_a_refused_one_does_not(
    open_link: Callable[..., Link], bell: Bell, listen: Callable[[Link], None]
) -> None:
    listen(open_link())
    assert bell.wait_for(1)  # subscribed
    link = open_link()
    pointer = RedisPointer(link, NoLease(link))
    pointer.force(0)
    assert bell.wait_for(2)
    pointer.compare_and_set(0, 1)
    assert bell.wait_for(3)
    with pytest.raises(Exception, match="but 1 serves"):
        pointer.compare_and_set(0, 2)
    time.sleep(0.3)
    assert bell.rung == 3


def test_moves_of_another_installation_do_not_ring(
    open_link: Callable[..., Link],
    redis_settings: StateSettings,
    bell: Bell,
    listen: Callable[[Link], None],
) -> None:
    listen(open_link())
    assert bell.wait_for(1)
    other = open_link(redis_settings.model_copy(update={"prefix": "somebody-else"}))
    RedisPointer(other, NoLease(other)).force(0)
    time.sleep(0.3)
    assert bell.rung == 1


def test_a_lost_subscription_comes_back_and_rings_for_what_was_missed(
    start_redis: Callable[..., RedisServer],
    open_link: Callable[..., Link],
    bell: Bell,
    listen: Callable[[Link], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notices_module, "RETRY_S", 0.05)
    server = start_redis()
    link = open_link(StateSettings(url=server.url))
    listen(link)
    assert bell.wait_for(1)
    server.kill()
    server.start()
    assert bell.wait_for(2)
    RedisPointer(link, NoLease(link)).force(0)
    assert bell.wait_for(3)


def test_a_silent_subscription_is_given_up_and_made_anew(
    start_redis: Callable[..., RedisServer],
    open_link: Callable[..., Link],
    bell: Bell,
    listen: Callable[[Link], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A frozen server stands for one behind a cut cable: no error ever comes."""
    for name, seconds in (
        ("PING_S", 0.1),
        ("SILENT_S", 2.0),
        ("LISTEN_S", 0.05),
        ("RETRY_S", 0.05),
    ):
        monkeypatch.setattr(notices_module, name, seconds)
    server = start_redis()
    listen(open_link(StateSettings(url=server.url, timeout_s=0.3)))
    assert bell.wait_for(1)
    time.sleep(3.0)
    assert bell.rung == 1  # the pings were answered
    server.freeze()
    time.sleep(3.0)
    server.thaw()
    assert bell.wait_for(2)


def test_closing_ends_the_thread(open_link: Callable[..., Link], bell: Bell) -> None:
    notices = Notices(open_link(), bell)
    assert bell.wait_for(1)
    notices.close()
    assert "hear-notices" not in {thread.name for thread in threading.enumerate()}
