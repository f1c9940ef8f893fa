"""A connection to the file of the SQLite log: settings, schema, transactions, errors.

The one place that sees an `sqlite3` error. Knows nothing of topics, groups or offsets.
"""

import os
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from streams.errors import (
    LogBusyError,
    LogClosedError,
    LogCorruptError,
    LogFullError,
    LogUnavailableError,
)

# Measured with benchmarks/streams_log.py at 20 KB: 4 KiB pages reach 0.64 of this speed, 64 KiB
# 1.13, but then each small append would write a page of 64 KiB.
PAGE_BYTES = 16384
_SCHEMA_VERSION = 1
_RETRY_STEP_S = 0.01

_SCHEMA = """
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    number INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0,
    next_offset INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number)
);
-- id is partitions.id * 2^40 + offset: each partition is one run of the table's own tree, so no
-- index is needed to read it in order. The value stands last, so that the rest is read without it.
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    timestamp_s REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    key TEXT NOT NULL,
    headers TEXT NOT NULL,
    value BLOB NOT NULL
);
CREATE TABLE groups (name TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE members (
    group_name TEXT NOT NULL,
    name TEXT NOT NULL,
    topics TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seen_s REAL NOT NULL,
    session_timeout_s REAL NOT NULL,
    PRIMARY KEY (group_name, name)
) WITHOUT ROWID;
CREATE TABLE offsets (
    group_name TEXT NOT NULL,
    partition_id INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (group_name, partition_id)
) WITHOUT ROWID;
"""

_ERRORS: dict[int, type[LogUnavailableError]] = {
    sqlite3.SQLITE_BUSY: LogBusyError,
    sqlite3.SQLITE_LOCKED: LogBusyError,
    sqlite3.SQLITE_FULL: LogFullError,
    sqlite3.SQLITE_CORRUPT: LogCorruptError,
    sqlite3.SQLITE_NOTADB: LogCorruptError,
}

Row = tuple[Any, ...]
Synchronous = Literal["full", "normal"]


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """How the file is written.

    Attributes:
        synchronous: "full" flushes every append to the disk before it is acknowledged; "normal"
            may lose the last acknowledged ones when the machine (not the process) goes down.
        busy_timeout_s: how long to wait for other writers.
        max_file_bytes: appends that would grow the file beyond this are refused; none: as far as
            the disk goes. Not less than the file already has.
    """

    synchronous: Synchronous = "full"
    busy_timeout_s: float = 5.0
    max_file_bytes: int | None = None


class Database:
    """One connection; open it in the process that uses it, and guard it if threads share it."""

    def __init__(self, path: Path, settings: DatabaseSettings) -> None:
        self.path = path
        self._settings = settings
        with self._mapped():
            self._connection = sqlite3.connect(
                path,
                isolation_level=None,
                check_same_thread=False,
                timeout=settings.busy_timeout_s,
            )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self, wait_s: float | None = None) -> Iterator[None]:
        """Hold the file's write lock; commit at the end, or undo everything on an error.

        Raises:
            LogBusyError: another writer held it for `wait_s` (none: `busy_timeout_s`).
        """
        wait_s = self._settings.busy_timeout_s if wait_s is None else wait_s
        with self._mapped():
            self._connection.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has already undone it after some errors, a full disk among them.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *values: object) -> list[Row]:
        """All rows of a query."""
        with self._mapped():
            return self._connection.execute(sql, values).fetchall()

    def scan(self, sql: str, *values: object) -> Generator[Row, None, None]:
        """The rows of a query one at a time; close it to let go of what it reads."""
        with self._mapped(), closing(self._connection.execute(sql, values)) as cursor:
            yield from cursor

    def write(self, sql: str, rows: Iterable[Row]) -> None:
        """Run a statement for each row of values, inside a transaction."""
        with self._mapped():
            self._connection.executemany(sql, rows)

    def close(self) -> None:
        """Close the connection; harmless twice."""
        self._connection.close()

    def _prepare(self) -> None:
        deadline = time.monotonic() + self._settings.busy_timeout_s
        while True:
            try:
                self._set_journal()
                break
            except LogBusyError:
                # SQLite does not wait by itself while another process turns the journal on.
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_STEP_S)
        ((page_bytes,),) = self.rows("PRAGMA page_size")
        self.rows(f"PRAGMA synchronous = {self._settings.synchronous}")
        if self._settings.max_file_bytes is not None:
            self.rows(f"PRAGMA max_page_count = {self._settings.max_file_bytes // page_bytes}")
        if self._version() == 0:
            self._create()
        if self._version() != _SCHEMA_VERSION:
            raise LogCorruptError(
                self.path, f"schema version is {self._version()}, expected {_SCHEMA_VERSION}"
            )

    def _set_journal(self) -> None:
        self.rows(f"PRAGMA page_size = {PAGE_BYTES}")
        ((mode,),) = self.rows("PRAGMA journal_mode = wal")
        if mode != "wal":
            raise LogUnavailableError(
                self.path, f"journal mode is {mode!r}, expected 'wal', which needs a local disk"
            )

    def _create(self) -> None:
        with self.transaction():
            # Another process may have been first.
            if self._version() == 0:
                for statement in _SCHEMA.split(";\n"):
                    self.rows(statement)
                self.rows(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        _flush_directory(self.path.parent)

    def _version(self) -> int:
        ((version,),) = self.rows("PRAGMA user_version")
        return int(version)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            # sqlite3 has no code for this one.
            if "closed database" in str(exc):
                raise LogClosedError(f"log {self.path}") from exc
            raise _unavailable(self.path, exc) from exc


def _flush_directory(folder: Path) -> None:
    # SQLite does this for its write-ahead log, not for the name of a new database.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(path: Path, exc: sqlite3.Error) -> LogUnavailableError:
    # The low byte is the kind of error, the others its detail.
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    name = getattr(exc, "sqlite_errorname", type(exc).__name__)
    return _ERRORS.get(code, LogUnavailableError)(path, f"{exc} ({name})")
