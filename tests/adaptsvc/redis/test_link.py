"""The way to Redis: what goes wrong has one name, nobody waits for long, and the log says it once."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError, StateRefusedError, StateUnavailableError
from adaptsvc.redis.link import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Link
from adaptsvc.sections import StateSettings
from adaptsvc.state import open_state
from tests.adaptsvc.versions.examples import draft, exporter, head
from tests.redis_server import RedisServer
from tests.tls_proxy import TlsProxy

OpenLink = Callable[..., Link]


def ping(link: Link) -> bool:
    return bool(link.call(lambda client: client.ping()))


def fails(link: Link) -> str:
    with pytest.raises(StateUnavailableError) as raised:
        ping(link)
    return str(raised.value)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_missing_server_is_named_with_its_address(open_link: OpenLink) -> None:
    link = open_link(StateSettings(url="redis://127.0.0.1:1/0"))
    with pytest.raises(StateUnavailableError, match=r"Redis at 127\.0\.0\.1:1 does not answer"):
        ping(link)


def test_a_host_that_has_no_address_does_not_answer(open_link: OpenLink) -> None:
    link = open_link(StateSettings(url="redis://nowhere.invalid:6379/0"))
    assert "Redis at nowhere.invalid:6379 does not answer" in fails(link)


@pytest.mark.parametrize(
    ("username", "password", "says"),
    [("", "", "NOAUTH|Authentication"), ("", "wrong", "invalid"), ("eve", "secret", "invalid")],
)
def test_a_wrong_password_names_what_to_do_and_shows_no_password(
    start_redis: Callable[..., RedisServer],
    open_link: OpenLink,
    username: str,
    password: str,
    says: str,
) -> None:
    server = start_redis(password="secret")
    settings = StateSettings(url=server.url, username=username, password=SecretStr(password))
    with pytest.raises(
        StateRefusedError, match=rf"(?s)127\.0\.0\.1:\d+ does not let us in: .*({says})"
    ) as raised:
        ping(open_link(settings))
    assert "set ADAPTSVC_STATE__PASSWORD" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "wrong" not in str(raised.value).partition("; set")[0].replace("WRONGPASS", "")


@pytest.mark.parametrize("username", ["", "default"])
def test_the_right_password_lets_us_in(
    start_redis: Callable[..., RedisServer], open_link: OpenLink, username: str
) -> None:
    server = start_redis(password="secret")
    settings = StateSettings(url=server.url, username=username, password=SecretStr("secret"))
    assert ping(open_link(settings))


def test_a_user_without_rights_is_told_where_they_are_listed(
    start_redis: Callable[..., RedisServer], open_link: OpenLink
) -> None:
    server = start_redis()
    admin = open_link(StateSettings(url=server.url))
    admin.call(
        lambda client: client.acl_setuser("bob", enabled=True, nopass=True, commands=["+get"])
    )
    bob = open_link(StateSettings(url=server.url, username="bob", password=SecretStr("x")))
    with pytest.raises(StateRefusedError, match=r"docs/operations\.md"):
        ping(bob)


def test_a_refusal_is_no_outage(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StateRefusedError, match=r"Redis at .* says: "):
        link.call(lambda client: client.eval("return redis.call('NONSENSE')", 0))
    assert ping(link)
    assert caplog.records == []


def test_a_full_redis_is_refused_with_what_to_do(
    start_redis: Callable[..., RedisServer], open_link: OpenLink
) -> None:
    link = open_link(StateSettings(url=start_redis().url))
    link.call(lambda client: client.config_set("maxmemory", "1"))
    with pytest.raises(StateRefusedError, match=r"raise its maxmemory, and keep .* noeviction"):
        link.call(lambda client: client.set("key", b"x"))


def test_a_hung_server_is_waited_for_once_and_not_by_everyone(
    start_redis: Callable[..., RedisServer], open_link: OpenLink
) -> None:
    server, clock = start_redis(), Clock()
    link = open_link(StateSettings(url=server.url, timeout_s=0.3), clock=clock)
    assert ping(link)
    server.freeze()
    started = time.monotonic()
    fails(link)
    assert 0.25 < time.monotonic() - started < 10
    started = time.monotonic()
    for _ in range(100):
        fails(link)
    assert time.monotonic() - started < 5  # 100 waits would be 30 s
    server.thaw()
    clock.now += LONGEST_BACKOFF_S
    assert ping(link)


def test_of_many_that_ask_when_it_is_time_again_one_tries(
    start_redis: Callable[..., RedisServer], open_link: OpenLink
) -> None:
    server, clock = start_redis(), Clock()
    link = open_link(StateSettings(url=server.url, timeout_s=2.0), clock=clock)
    assert ping(link)
    server.freeze()
    fails(link)
    clock.now += LONGEST_BACKOFF_S
    took: list[float] = []

    def ask() -> None:
        started = time.monotonic()
        fails(link)
        took.append(time.monotonic() - started)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    server.thaw()
    assert sorted(seconds > 1.8 for seconds in took) == [False] * 7 + [True]


def test_the_time_between_attempts_grows_up_to_a_limit(open_link: OpenLink) -> None:
    clock = Clock()
    link = open_link(StateSettings(url="redis://127.0.0.1:1/0"), clock=clock)
    waits = []
    for _ in range(8):
        fails(link)
        waits.append(link._retry_at - clock.now)
        clock.now = link._retry_at
    for number, wait in enumerate(waits):
        longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**number)
        assert longest / 2 <= wait <= longest


def test_an_outage_of_any_length_is_still_an_outage(open_link: OpenLink) -> None:
    link = open_link(StateSettings(url="redis://127.0.0.1:1/0"), clock=Clock())
    link._failures = 5000  # of more than an hour
    fails(link)
    assert link._failures == 5001


def test_an_outage_is_logged_once_and_so_is_its_end_and_both_are_told(
    start_redis: Callable[..., RedisServer],
    open_link: OpenLink,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server, clock, heard = start_redis(), Clock(), list[bool]()
    link = open_link(StateSettings(url=server.url), clock=clock, heard=heard.append)
    for _outage in range(2):
        assert ping(link)
        server.kill()
        for _ in range(20):
            fails(link)
            clock.now += 1
        server.start()
        clock.now += LONGEST_BACKOFF_S
        assert ping(link)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    assert "does not answer" in messages[0]
    assert "going on with what is here" in messages[0]
    assert "answers again, after 25.0 s" in messages[1]
    assert heard == [False, True, False, True]


def test_a_server_that_restarted_between_two_calls_is_not_noticed(
    start_redis: Callable[..., RedisServer],
    open_link: OpenLink,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pooled connection that is closed by now is replaced before it is used."""
    server = start_redis()
    link = open_link(StateSettings(url=server.url))
    assert ping(link)
    server.kill()
    server.start()
    assert ping(link)
    assert caplog.records == []


def test_ca_file_without_tls_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"state\.ca_file is 'ca\.pem', but .* expected rediss://"
    ):
        Link(StateSettings(url="redis://127.0.0.1:1/0", ca_file="ca.pem"))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_port(shared_redis: RedisServer, authority: trustme.CA, tmp_path: Path) -> Iterator[int]:
    """In front of a server of a wheel, which is built without TLS."""
    issued = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    issued.write_to_path(tmp_path / "server.pem")
    with TlsProxy(tmp_path / "server.pem", shared_redis.port) as proxy:
        yield proxy.port


def test_tls_with_the_authority_of_the_ca_file(
    open_link: OpenLink, tls_port: int, authority: trustme.CA, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    settings = StateSettings(
        url=f"rediss://127.0.0.1:{tls_port}/0", ca_file=str(tmp_path / "ca.pem")
    )
    link = open_link(settings)
    assert ping(link)
    link.close()


@pytest.mark.parametrize("ca_file", ["", "other.pem"])
def test_a_certificate_that_nobody_we_know_signed_is_refused_with_what_to_do(
    open_link: OpenLink, tls_port: int, tmp_path: Path, ca_file: str
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    path = str(tmp_path / ca_file) if ca_file else ""
    settings = StateSettings(url=f"rediss://127.0.0.1:{tls_port}/0", ca_file=path, timeout_s=5)
    assert "set state.ca_file" in fails(open_link(settings))


def test_tls_to_a_server_without_it_says_so(open_link: OpenLink, shared_redis: RedisServer) -> None:
    settings = StateSettings(url=shared_redis.url.replace("redis://", "rediss://"), timeout_s=1)
    assert "Redis at 127.0.0.1" in fails(open_link(settings))


def test_a_ca_file_that_is_not_there_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"state\.ca_file is '/nowhere/ca\.pem', which is no file"
    ):
        Link(StateSettings(url="rediss://127.0.0.1:1/0", ca_file="/nowhere/ca.pem"))


def test_the_rights_that_the_documents_list_are_enough_and_reach_no_other_keys(
    start_redis: Callable[..., RedisServer], open_link: OpenLink, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"^ +(ACL SETUSER .*)$", page, re.MULTILINE)
    server = start_redis()
    assert server.command(rule.replace("PASSWORD", "secret")) == "+OK"
    settings = StateSettings(
        kind="redis", url=server.url, username="adaptsvc", password=SecretStr("secret")
    )
    state = open_state(Settings(home=tmp_path, state=settings), fenced=True)
    rung = threading.Event()
    unwatch = state.watch(rung.set)
    assert rung.wait(20)
    assert state.lease.acquire()
    base = state.store.add_base(exporter())
    version = state.store.publish(draft(base=base.digest), {}, head()).id
    state.pointer.compare_and_set(None, version)
    open_state(Settings(home=tmp_path / "other", state=settings)).store.load(version)
    older = state.store.publish(draft(base=base.digest), {}, head()).id
    assert (state.pins.add(older), state.store.prune(older)) == (True, False)
    assert (state.pins.remove(older), state.store.prune(older)) == (True, True)
    state.store.refuse(draft(), {}, head(), ["collapsed"])
    assert (len(state.store.refusals()), state.store.prune_bases()) == (1, [])
    state.pointer.force(version, hold=True)
    state.lease.release()
    unwatch()
    link = open_link(settings)
    with pytest.raises(StateRefusedError, match=r"permission"):
        link.call(lambda client: client.get("somebody else's"))
    with pytest.raises(StateRefusedError, match=r"permission"):
        link.call(lambda client: client.flushall())


def test_the_command_line_says_what_to_do_about_a_wrong_password(
    start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    server = start_redis(password="secret")
    settings = {"HOME": str(tmp_path), "STATE__KIND": "redis", "STATE__URL": server.url}
    environment = {f"ADAPTSVC_{name}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "adaptsvc", "versions", "list"],
        env={**os.environ, **environment, "ADAPTSVC_STATE__PASSWORD": "wrong"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "does not let us in" in done.stderr
    assert "set ADAPTSVC_STATE__PASSWORD" in done.stderr
    assert "Traceback" not in done.stderr
