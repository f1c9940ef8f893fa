"""The file keeps the lease's contract; and how a lease is held while there is work."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from adaptsvc.errors import LeaseLostError, StateUnavailableError
from adaptsvc.versions.lease import FileLease, held
from tests.adaptsvc.versions.contract_lease import LeaseBench, LeaseContract


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "WORKER"


@pytest.fixture
def lease_bench(path: Path) -> LeaseBench:
    return LeaseBench(partial(FileLease, path), path.with_name(".WORKER.lock").unlink)


class TestFileLease(LeaseContract):
    """All of the contract."""


def wait_until(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_lease_of_a_killed_worker_is_free_at_once(path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from adaptsvc.versions.lease import FileLease; "
        "lease = FileLease(Path(sys.argv[1])); print(lease.acquire(), flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"True\n"
    assert not FileLease(path).acquire()
    other.kill()
    other.wait()
    other.stdout.close()
    lease = FileLease(path)
    assert lease.acquire()
    assert lease.token == 2


@pytest.mark.parametrize("content", [b"", b"\xff", b"one"])
def test_a_broken_token_is_followed_by_one_above_any_before(path: Path, content: bytes) -> None:
    first = FileLease(path)
    assert first.acquire()
    first.release()
    path.write_bytes(content)
    second = FileLease(path)
    assert second.acquire()
    assert second.token > 1_000_000
    second.check()


def test_a_write_that_fails_leaves_the_lease_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(_path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    lease = FileLease(path)
    with monkeypatch.context() as patch:
        patch.setattr("adaptsvc.versions.lease.write_atomic", disk_full)
        with pytest.raises(OSError, match="No space left"):
            lease.acquire()
    assert lease.token == 0
    assert FileLease(path).acquire()


def test_a_lease_is_held_during_the_work_and_free_after_it(path: Path) -> None:
    lease = FileLease(path)
    with held(lease, threading.Event(), 0.01) as ours:
        assert ours
        assert not FileLease(path).acquire()
    assert FileLease(path).acquire()


def test_a_lease_is_free_after_work_that_failed(path: Path) -> None:
    with pytest.raises(RuntimeError), held(FileLease(path), threading.Event(), 0.01):
        raise RuntimeError
    assert FileLease(path).acquire()


def test_the_second_worker_waits_until_the_first_is_done(path: Path) -> None:
    first, order = FileLease(path), list[str]()
    assert first.acquire()

    def work() -> None:
        with held(FileLease(path), threading.Event(), 0.01):
            order.append("second")

    second = threading.Thread(target=work)
    second.start()
    second.join(timeout=0.2)
    order.append("first")
    first.release()
    second.join(timeout=20)
    assert order == ["first", "second"]


def test_a_worker_that_is_told_to_stop_stops_waiting(path: Path) -> None:
    first, stop = FileLease(path), threading.Event()
    assert first.acquire()
    threading.Timer(0.1, stop.set).start()
    with held(FileLease(path), stop, 30) as ours:
        assert not ours
    first.check()


def test_a_worker_that_lost_its_lease_finds_out_while_it_works(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lease, next_one = FileLease(path), FileLease(path)
    with held(lease, threading.Event(), 0.01):
        path.with_name(".WORKER.lock").unlink()
        assert next_one.acquire()
        wait_until(lambda: "is another worker's now" in caplog.text)
        with pytest.raises(LeaseLostError):
            lease.check()
    next_one.check()


class Shaky(FileLease):
    """Out of reach for its first attempts, and whenever told so."""

    def __init__(self, path: Path, failures: int) -> None:
        super().__init__(path)
        self.failures = failures
        self.asked = 0

    def acquire(self) -> bool:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise StateUnavailableError("out of reach")
        return super().acquire()


def test_a_worker_waits_for_a_state_out_of_reach_and_says_nothing_each_time(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lease = Shaky(path, 3)
    with held(lease, threading.Event(), 0.01) as ours:
        assert ours
    assert lease.asked >= 4
    assert len(caplog.records) == 1
    assert "this worker writes, with token 1" in caplog.text


def test_prolonging_goes_on_after_an_outage(path: Path) -> None:
    lease = Shaky(path, 0)
    with held(lease, threading.Event(), 0.01):
        lease.failures, before = 3, lease.asked
        wait_until(lambda: lease.asked > before + 4)
        lease.check()


def test_a_worker_waits_for_room_to_note_its_lease_and_says_so_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = itertools.count(1)

    def disk_full(descriptor: int) -> None:
        if next(attempts) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with held(FileLease(path), threading.Event(), 0.001) as ours:
        assert ours
    assert caplog.text.count("no room for") == 1
