"""Claims about the SQLite log with several processes, some of them killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from streams import (
    SqliteLog,
    TopicPartition,
)
from tests.streams.bench import (
    EVENTS,
    MANY,
    TOPICS,
    commit_all,
    drain,
    numbered,
    values,
)

ROOT = Path(__file__).parents[2]
_APPEND_FOR_EVER = """
import sys
from pathlib import Path
from streams import SqliteLog
from tests.streams.bench import TOPICS, numbered
log = SqliteLog(Path(sys.argv[1]), TOPICS)
for first in range(0, 10**9, 10):
    log.append("images", numbered(10, first=first))
    print(first + 10, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.mark.integration
def test_a_second_process_appends_while_this_one_reads(path: Path) -> None:
    with closing(SqliteLog(path, TOPICS)) as log:
        consumer = log.consumer("g", ["images"])
        writer = multiprocessing.get_context("spawn").Process(target=_append_hundreds, args=(path,))
        writer.start()
        received: list[int] = []
        deadline = time.monotonic() + 60
        while len(received) < 500 and time.monotonic() < deadline:
            batch = consumer.poll(**MANY, timeout_s=1)
            received += values(batch)
        writer.join(60)
        assert writer.exitcode == 0
        assert sorted(received) == list(range(500))


def _append_hundreds(path: Path) -> None:
    with closing(SqliteLog(path, TOPICS)) as log:
        for first in range(0, 500, 10):
            log.append("images", numbered(10, first=first))


@pytest.mark.integration
def test_processes_that_open_a_new_file_at_once_all_succeed(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_one, args=(path, n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    with closing(SqliteLog(path, TOPICS)) as log:
        assert values(log.read(EVENTS, offset=0, limit=9)) == [0, 1, 2, 3]


def _append_one(path: Path, number: int) -> None:
    with closing(SqliteLog(path, TOPICS)) as log:
        log.append("events", numbered(1, first=number))


@pytest.mark.integration
def test_after_a_kill_in_the_middle_of_appending_every_acknowledged_message_is_there(
    path: Path,
) -> None:
    for _ in range(3):
        acknowledged = _append_until_killed(path)
        with closing(SqliteLog(path, TOPICS)) as log:
            consumer = log.consumer("g", ["images"])
            received = values(drain(consumer))
            commit_all(consumer)
            consumer.close()
        # One more batch may be stored whose acknowledgement the kill cut off, and wholly.
        assert acknowledged >= 100
        assert received in (list(range(acknowledged)), list(range(acknowledged + 10)))


def _append_until_killed(path: Path) -> int:
    """Kill -9 a process after its tenth append or later; the number that it acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", _APPEND_FOR_EVER, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        for _ in range(10):
            writer.stdout.readline()
        time.sleep(0.03)
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
    return int(rest[-1]) if rest else 100


@pytest.mark.integration
def test_the_partitions_of_a_killed_member_go_to_another_after_its_lease(path: Path) -> None:
    with closing(SqliteLog(path, TOPICS, session_timeout_s=1.0)) as log:
        log.append("images", numbered(20))
        context = multiprocessing.get_context("spawn")
        joined = context.Event()
        other = context.Process(target=_join_and_hang, args=(path, joined))
        other.start()
        assert joined.wait(60)
        consumer = log.consumer("g", ["images"])
        assert consumer.positions() == {
            TopicPartition("images", 1): 0,
            TopicPartition("images", 3): 0,
        }
        other.kill()
        other.join(60)
        received: list[int] = []
        deadline = time.monotonic() + 30
        while len(received) < 20 and time.monotonic() < deadline:
            received += values(consumer.poll(**MANY, timeout_s=0.2))
        assert sorted(received) == list(range(20))


def _join_and_hang(path: Path, joined: "multiprocessing.synchronize.Event") -> None:
    log = SqliteLog(path, TOPICS, session_timeout_s=1.0)
    consumer = log.consumer("g", ["images"])
    joined.set()
    while True:
        consumer.heartbeat()
        time.sleep(0.1)
