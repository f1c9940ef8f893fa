"""The SQLite log keeps the contract, and what it alone promises: files, processes, retention."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from streams import (
    DatabaseSettings,
    LogBusyError,
    LogCorruptError,
    LogFullError,
    LogUnavailableError,
    NewMessage,
    SqliteLog,
    TopicConfigError,
    Topics,
)
from tests.streams.bench import (
    EVENTS,
    MANY,
    RETENTION_S,
    SESSION_TIMEOUT_S,
    TOPICS,
    DurableBench,
    commit_all,
    drain,
    numbered,
    values,
)
from tests.streams.clock import FakeClock
from tests.streams.contract_durable import DurableContract


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.fixture
def log(path: Path, clock: FakeClock) -> Iterator[SqliteLog]:
    with closing(SqliteLog(path, TOPICS, now=clock, session_timeout_s=SESSION_TIMEOUT_S)) as opened:
        yield opened


@pytest.fixture
def bench(path: Path, clock: FakeClock) -> Iterator[DurableBench]:
    settings = DatabaseSettings(busy_timeout_s=0.2)
    opened = SqliteLog(
        path, TOPICS, settings=settings, now=clock, session_timeout_s=SESSION_TIMEOUT_S
    )

    def expire() -> None:
        clock.advance(RETENTION_S + 1)
        opened.enforce_retention(clock(), delete_unread=True)

    with closing(opened):
        yield DurableBench(opened, clock.advance, expire=expire, outage=lambda: _locked(path))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Another process writes, and does not end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


class TestSqliteLog(DurableContract):
    """All of the contract."""


# Files


def test_a_reopened_log_has_its_messages_offsets_and_groups(path: Path, log: SqliteLog) -> None:
    log.append("events", numbered(10))
    consumer = log.consumer("g", ["events"])
    drain(consumer)
    consumer.commit({EVENTS: 7})
    consumer.close()
    log.close()
    with closing(SqliteLog(path, TOPICS)) as again:
        assert values(drain(again.consumer("g", ["events"]))) == [7, 8, 9]
        assert again.append("events", numbered(1))[0].offset == 10


def test_a_file_that_is_no_database_is_called_corrupt(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look" * 100)
    with pytest.raises(LogCorruptError, match="move the file away") as caught:
        SqliteLog(path, TOPICS)
    assert caught.value.where == path


def test_damage_inside_the_file_is_called_corrupt_when_it_is_met(path: Path) -> None:
    with closing(SqliteLog(path, TOPICS)) as log:
        log.append("events", [NewMessage("k", bytes(10_000)) for _ in range(50)])
    content = bytearray(path.read_bytes())
    content[16384 * 9 :] = b"\xa5" * (len(content) - 16384 * 9)
    path.write_bytes(content)
    with closing(SqliteLog(path, TOPICS)) as log, pytest.raises(LogCorruptError):
        log.read(EVENTS, offset=0, limit=50)


def test_a_file_of_another_schema_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 7")
    with pytest.raises(LogCorruptError, match="schema version is 7, expected 1"):
        SqliteLog(path, TOPICS)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError, match=r"nowhere.*directory exist"):
        SqliteLog(tmp_path / "nowhere" / "log.sqlite", TOPICS)


def test_a_place_that_cannot_hold_a_write_ahead_log_is_refused() -> None:
    with pytest.raises(LogUnavailableError, match="journal mode is 'memory', expected 'wal'"):
        SqliteLog(Path(":memory:"), TOPICS)


def test_a_full_disk_refuses_the_append_and_loses_nothing(path: Path) -> None:
    settings = DatabaseSettings(max_file_bytes=2_000_000)
    with closing(SqliteLog(path, TOPICS, settings=settings)) as log:
        log.append("events", numbered(5))
        with pytest.raises(LogFullError, match="free disk space"):
            log.append("events", [NewMessage("k", bytes(500_000)) for _ in range(5)])
        consumer = log.consumer("g", ["events"])
        assert values(drain(consumer)) == [0, 1, 2, 3, 4]
        commit_all(consumer)
        assert log.append("events", numbered(1))[0].offset == 5


def test_fewer_partitions_than_the_file_has_are_refused(path: Path) -> None:
    SqliteLog(path, TOPICS).close()
    with pytest.raises(TopicConfigError, match="expected partitions below 2"):
        SqliteLog(path, _with_partitions(2))


def test_more_partitions_than_the_file_has_are_added(path: Path) -> None:
    with closing(SqliteLog(path, TOPICS)) as log:
        log.append("images", numbered(20))
    with closing(SqliteLog(path, _with_partitions(8))) as log:
        log.append("images", numbered(20, first=20))
        assert values(drain(log.consumer("g", ["images"]))) == list(range(40))


def _with_partitions(count: int) -> Topics:
    images = replace(TOPICS.spec("images"), partitions=count)
    return Topics({**TOPICS.specs, "images": images})


# Several writers


def test_a_held_write_lock_refuses_the_append_after_the_busy_timeout(path: Path) -> None:
    settings = DatabaseSettings(busy_timeout_s=0.1)
    with (
        closing(SqliteLog(path, TOPICS, settings=settings)) as log,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogBusyError, match="raise busy_timeout_s"):
            log.append("events", numbered(1))
        with pytest.raises(LogBusyError):
            log.consumer("g", ["events"])
        other.execute("ROLLBACK")
        log.append("events", numbered(1))


def test_opening_waits_for_another_that_is_starting_the_file(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LogBusyError):
            SqliteLog(path, TOPICS, settings=DatabaseSettings(busy_timeout_s=0.05))
        threading.Timer(0.3, other.execute, args=("ROLLBACK",)).start()
        SqliteLog(path, TOPICS).close()


def test_poll_reads_in_time_while_another_process_holds_the_write_lock(
    path: Path, log: SqliteLog, clock: FakeClock
) -> None:
    log.append("events", numbered(5))
    consumer = log.consumer("g", ["events"])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        clock.advance(SESSION_TIMEOUT_S / 2)
        started = time.monotonic()
        assert len(consumer.poll(**MANY, timeout_s=0.1)) == 5
        clock.advance(SESSION_TIMEOUT_S)
        with pytest.raises(LogBusyError):
            consumer.poll(**MANY, timeout_s=0.1)
        assert time.monotonic() - started < 2


def test_a_clock_set_back_divides_the_group_anew_and_loses_nothing(
    log: SqliteLog, clock: FakeClock
) -> None:
    log.append("images", numbered(20))
    one, _dead = (log.consumer("g", ["images"]) for _ in range(2))
    clock.advance(-3600)
    assert values(drain(one)) == list(range(20))
    commit_all(one)


def test_threads_may_share_a_log(log: SqliteLog) -> None:
    threads = [
        threading.Thread(target=_append_singly, args=(log, first)) for first in range(0, 80, 20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(drain(log.consumer("g", ["images"]))) == list(range(80))


def _append_singly(log: SqliteLog, first: int) -> None:
    for number in range(first, first + 20):
        log.append("images", numbered(1, first=number))


def test_a_failed_poll_skips_nothing(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append("images", numbered(40))
    consumer = log.consumer("g", ["images"])
    monkeypatch.setattr("streams.sqlite._unpack_headers", _fail_at_call(30))
    with pytest.raises(OSError, match="at call 30"):
        consumer.poll(**MANY, timeout_s=0)
    monkeypatch.undo()
    assert values(drain(consumer)) == list(range(40))


def _fail_at_call(last: int) -> Callable[[str], dict[str, bytes]]:
    calls = 0

    def unpack(packed: str) -> dict[str, bytes]:
        nonlocal calls
        calls += 1
        if calls == last:
            raise OSError(f"at call {last}")
        return {}

    return unpack


# Retention


def test_retention_by_age_deletes_what_is_old_and_committed(
    log: SqliteLog, clock: FakeClock
) -> None:
    log.append("events", numbered(5))
    clock.advance(60)
    log.append("events", numbered(5, first=5))
    consumer = log.consumer("g", ["events"])
    drain(consumer)
    commit_all(consumer)
    clock.advance(60)
    report = log.enforce_retention(clock())
    assert (report.messages, report.unread, report.held) == (5, 0, ())
    assert values(log.read(EVENTS, offset=0, limit=10)) == [5, 6, 7, 8, 9]
    consumer.seek({EVENTS: 0})
    assert consumer.lag() == 5
    assert values(drain(consumer)) == [5, 6, 7, 8, 9]


def test_retention_by_bytes_deletes_the_oldest_until_the_rest_fits(log: SqliteLog) -> None:
    log.append("events", [NewMessage("k", bytes(999_999)) for _ in range(6)])
    report = log.enforce_retention(1_000_000)
    assert (report.messages, report.size_bytes) == (2, 2_000_000)
    assert [each.offset for each in log.read(EVENTS, offset=0, limit=9)] == [2, 3, 4, 5]
    assert log.enforce_retention(1_000_000).messages == 0


def test_retention_keeps_what_a_group_has_not_committed_and_says_so(
    log: SqliteLog, clock: FakeClock
) -> None:
    log.append("events", numbered(5))
    reader = log.consumer("g", ["events"])
    drain(reader)
    reader.commit({EVENTS: 2})
    clock.advance(1000)
    report = log.enforce_retention(clock())
    assert (report.messages, report.held) == (2, (EVENTS,))
    assert values(log.read(EVENTS, offset=0, limit=9)) == [2, 3, 4]


def test_retention_told_to_delete_unread_messages_counts_them(
    log: SqliteLog, clock: FakeClock
) -> None:
    log.append("events", numbered(5))
    reader = log.consumer("g", ["events"])
    drain(reader)
    reader.commit({EVENTS: 2})
    clock.advance(1000)
    report = log.enforce_retention(clock(), delete_unread=True)
    assert (report.messages, report.unread, report.held) == (5, 3, ())
    log.append("events", numbered(1, first=5))
    reader.close()
    assert values(drain(log.consumer("g", ["events"]))) == [5]


def test_retention_of_many_messages_goes_in_several_transactions(
    log: SqliteLog, clock: FakeClock
) -> None:
    log.append("events", numbered(1000))
    clock.advance(1000)
    assert log.enforce_retention(clock()).messages == 1000
    assert log.append("events", numbered(1))[0].offset == 1000


def test_space_of_deleted_messages_is_used_again(
    path: Path, log: SqliteLog, clock: FakeClock
) -> None:
    sizes = []
    for _ in range(4):
        log.append("events", [NewMessage("k", bytes(500_000)) for _ in range(8)])
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sizes.append(path.stat().st_size)
        clock.advance(1000)
        log.enforce_retention(clock())
    assert sizes[-1] <= sizes[0] * 1.1
