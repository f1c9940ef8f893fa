"""The durable log: topics, offsets and groups in one SQLite file, for the processes of one machine.

Readers do not block writers, writers take turns. Space of deleted messages is used again by later
ones; the file does not shrink. The partitions of a topic may be raised in number, with every
process stopped; keys then move, so the order per key holds from there on. Leases go by the wall
clock: a jump of it divides groups anew and delivers messages again, but loses none.

Knows nothing of what messages mean.
"""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path

from streams.consumer import Bounds, Start, StoreConsumer, Subscription
from streams.database import Database, DatabaseSettings, Row
from streams.errors import LogClosedError, TopicConfigError
from streams.groups import Group, Member
from streams.log import Consumer, check_sizes
from streams.message import Message, NewMessage, Position, TopicPartition, partition_of
from streams.retention import Cut, Entry, Limits, RetentionReport, cut_head
from streams.topics import Topics, TopicSpec

_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1
# Messages deleted in one transaction: appends of other processes wait for no more than these.
_CUT_MESSAGES = 256

_INSERT_MESSAGE = (
    "INSERT INTO messages (id, timestamp_s, size_bytes, key, headers, value)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_COUNT_MESSAGES = (
    "UPDATE partitions SET next_offset = next_offset + ?, size_bytes = size_bytes + ? WHERE id = ?"
)
_SCAN_MESSAGES = (
    "SELECT id, timestamp_s, key, headers, value FROM messages"
    " WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
)
_SCAN_ENTRIES = (
    "SELECT id, timestamp_s, size_bytes FROM messages WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
)
_SELECT_GROUP = (
    "SELECT generation, m.name, topics, epoch, seen_s, session_timeout_s"
    " FROM groups AS g LEFT JOIN members AS m ON m.group_name = g.name WHERE g.name = ?"
)


class SqliteLog:
    """A log in one file; see `streams.log.Log` for what each method promises."""

    def __init__(
        self,
        path: Path,
        topics: Topics,
        *,
        settings: DatabaseSettings | None = None,
        session_timeout_s: float = 10.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the file, or start it; its directory must exist.

        Raises:
            LogUnavailableError: the file cannot be opened, or is no log.
            TopicConfigError: the file has more partitions of a topic than `topics` says.
        """
        self._path = path
        self._topics = topics
        self._settings = settings or DatabaseSettings()
        self._session_timeout_s = session_timeout_s
        self._now = now
        self._lock = threading.RLock()
        self._closed = False
        self._store = _open_store(path, topics, self._settings)

    def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        """See `streams.log.Log.append`; many messages in one call share one flush to the disk."""
        spec = self._topics.spec(topic)
        check_sizes(spec, messages)
        with self._lock:
            return self._store.append(spec, messages, self._now()) if messages else ()

    def consumer(
        self, group: str, topics: Sequence[str], *, start: Start = "earliest", member: str = ""
    ) -> Consumer:
        """See `streams.log.Log.consumer`; each consumer has its own connection to the file."""
        self._topics.partitions(topics)
        if self._closed:
            raise LogClosedError(f"log {self._path}")
        subscription = Subscription(
            group, member or uuid.uuid4().hex, tuple(topics), start, self._session_timeout_s
        )
        # The cap is for appends: a full log must still let its readers commit. Nor need a commit be
        # flushed: when the machine goes down, what it covered is delivered again.
        readers = replace(self._settings, max_file_bytes=None, synchronous="normal")
        store = _open_store(self._path, self._topics, readers)
        try:
            return StoreConsumer(store, subscription, self._now)
        except BaseException:
            store.close()
            raise

    def read(self, partition: TopicPartition, *, offset: int, limit: int) -> tuple[Message, ...]:
        """See `streams.log.Log.read`."""
        self._topics.check_partition(partition)
        with self._lock, closing(self._store.scan(partition, offset=offset, limit=limit)) as scan:
            return tuple(message for message in scan if message.offset < offset + limit)

    def bounds(self, partition: TopicPartition) -> Bounds:
        """See `streams.log.Log.bounds`."""
        self._topics.check_partition(partition)
        with self._lock:
            return self._store.bounds(partition)

    def enforce_retention(self, now_s: float, *, delete_unread: bool = False) -> RetentionReport:
        """Delete the oldest messages that are beyond their topic's age or bytes.

        Nothing is ever deleted but by this call. A message that a group has not committed stays,
        and so do those after it, unless `delete_unread`: then it goes, and is counted as `unread`.
        A group counts from its first consumer on, for good.
        """
        report = RetentionReport()
        for partition in self._topics.partitions(self._topics.specs):
            while True:
                with self._lock:
                    cut = self._store.cut(partition, now_s, delete_unread)
                report = RetentionReport(
                    report.messages + cut.messages,
                    report.size_bytes + cut.size_bytes,
                    report.unread + cut.unread,
                    (*report.held, partition) if cut.held else report.held,
                )
                if cut.messages < _CUT_MESSAGES:
                    break
        return report

    def close(self) -> None:
        """See `streams.log.Log.close`."""
        with self._lock:
            self._closed = True
            self._store.close()


def _open_store(path: Path, topics: Topics, settings: DatabaseSettings) -> "_SqliteStore":
    database = Database(path, settings)
    try:
        return _SqliteStore(database, topics)
    except BaseException:
        database.close()
        raise


class _SqliteStore:
    """A `streams.consumer.Store` on one connection."""

    def __init__(self, database: Database, topics: Topics) -> None:
        self.topics = topics
        self._database = database
        self._ids = _partition_ids(database, topics)
        self._partitions = {number: partition for partition, number in self._ids.items()}

    def append(
        self, spec: TopicSpec, messages: Sequence[NewMessage], now_s: float
    ) -> tuple[Position, ...]:
        with self._database.transaction():
            ends = {each: self.bounds(each).end for each in spec.all_partitions()}
            positions = _place(spec, messages, ends)
            rows = [
                (
                    self._ids[position.partition] << _OFFSET_BITS | position.offset,
                    now_s,
                    message.size_bytes,
                    message.key,
                    _pack_headers(message.headers),
                    message.value,
                )
                for position, message in zip(positions, messages, strict=True)
            ]
            self._database.write(_INSERT_MESSAGE, rows)
            self._database.write(_COUNT_MESSAGES, _added(rows))
        return positions

    def transaction(self, wait_s: float | None) -> AbstractContextManager[None]:
        return self._database.transaction(wait_s)

    def group(self, name: str) -> Group:
        rows = self._database.rows(_SELECT_GROUP, name)
        if not rows:
            return Group()
        members = (_member(row[1:]) for row in rows if row[1] is not None)
        return Group(rows[0][0], tuple(sorted(members, key=lambda each: each.epoch)))

    def save_group(self, name: str, group: Group) -> None:
        self._database.write("REPLACE INTO groups VALUES (?, ?)", [(name, group.generation)])
        self._database.write("DELETE FROM members WHERE group_name = ?", [(name,)])
        self._database.write(
            "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?)",
            (
                (
                    name,
                    each.name,
                    json.dumps(each.topics),
                    each.epoch,
                    each.seen_s,
                    each.session_timeout_s,
                )
                for each in group.members
            ),
        )

    def register(self, group: str, topics: tuple[str, ...], start: Start) -> None:
        rows = []
        for partition in self.topics.partitions(topics):
            bounds = self.bounds(partition)
            first = bounds.first if start == "earliest" else bounds.end
            rows.append((group, self._ids[partition], first))
        self._database.write("INSERT OR IGNORE INTO offsets VALUES (?, ?, ?)", rows)

    def committed(self, group: str) -> Mapping[TopicPartition, int]:
        rows = self._database.rows(
            "SELECT partition_id, next_offset FROM offsets WHERE group_name = ?", group
        )
        return {self._partitions[each]: offset for each, offset in rows if each in self._partitions}

    def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        self._database.write(
            "REPLACE INTO offsets VALUES (?, ?, ?)",
            ((group, self._ids[partition], offset) for partition, offset in offsets.items()),
        )

    def bounds(self, partition: TopicPartition) -> Bounds:
        ((first, end),) = self._database.rows(
            "SELECT first_offset, next_offset FROM partitions WHERE id = ?", self._ids[partition]
        )
        return Bounds(first, end)

    def scan(
        self, partition: TopicPartition, *, offset: int, limit: int
    ) -> Generator[Message, None, None]:
        low, high = _id_range(self._ids[partition], max(0, offset))
        with closing(self._database.scan(_SCAN_MESSAGES, low, high, max(0, limit))) as rows:
            for row in rows:
                yield _message(partition, row)

    def cut(self, partition: TopicPartition, now_s: float, delete_unread: bool) -> Cut:
        spec, number = self.topics.spec(partition.topic), self._ids[partition]
        with self._database.transaction():
            ((first, end, total_bytes, unread_from),) = self._database.rows(
                "SELECT first_offset, next_offset, size_bytes,"
                " (SELECT min(next_offset) FROM offsets WHERE partition_id = id)"
                " FROM partitions WHERE id = ?",
                number,
            )
            limits = Limits(
                oldest_s=now_s - spec.retention_s,
                size_bytes=spec.partition_retention_bytes,
                unread_from=end if unread_from is None else unread_from,
                delete_unread=delete_unread,
            )
            rows = self._database.rows(_SCAN_ENTRIES, *_id_range(number, first), _CUT_MESSAGES)
            entries = (Entry(row[0] & _OFFSET_MASK, row[1], row[2]) for row in rows)
            cut = cut_head(entries, first=first, total_bytes=total_bytes, limits=limits)
            self._delete_head(number, cut)
        return cut

    def wait(self, timeout_s: float) -> None:
        time.sleep(timeout_s)

    def close(self) -> None:
        self._database.close()

    def _delete_head(self, number: int, cut: Cut) -> None:
        low, _ = _id_range(number, 0)
        end, _ = _id_range(number, cut.first_kept)
        self._database.write("DELETE FROM messages WHERE id >= ? AND id < ?", [(low, end)])
        self._database.write(
            "UPDATE partitions SET first_offset = ?, size_bytes = size_bytes - ? WHERE id = ?",
            [(cut.first_kept, cut.size_bytes, number)],
        )


def _partition_ids(database: Database, topics: Topics) -> dict[TopicPartition, int]:
    stored = _stored_ids(database)
    wanted = topics.partitions(topics.specs)
    for extra in stored.keys() - set(wanted):
        if extra.topic in topics.specs:
            raise TopicConfigError(
                f"log {database.path} holds {extra}; expected partitions below "
                f"{topics.spec(extra.topic).partitions}; partitions cannot be taken away: "
                "raise the number in topics.yaml or start a new file"
            )
    if stored.keys() >= set(wanted):
        return stored
    with database.transaction():
        database.write(
            "INSERT OR IGNORE INTO partitions (topic, number) VALUES (?, ?)",
            ((each.topic, each.partition) for each in wanted),
        )
    return _stored_ids(database)


def _stored_ids(database: Database) -> dict[TopicPartition, int]:
    rows = database.rows("SELECT topic, number, id FROM partitions")
    return {TopicPartition(topic, number): row_id for topic, number, row_id in rows}


def _place(
    spec: TopicSpec, messages: Sequence[NewMessage], ends: Mapping[TopicPartition, int]
) -> tuple[Position, ...]:
    """The next free offset for each message, in the partition of its key."""
    free = dict(ends)
    positions = []
    for message in messages:
        partition = TopicPartition(spec.name, partition_of(message.key, spec.partitions))
        positions.append(Position(partition, free[partition]))
        free[partition] += 1
    return tuple(positions)


def _added(rows: Sequence[Row]) -> list[Row]:
    """For each partition that gets messages: their number, their bytes, and its id."""
    counts, sizes = Counter[int](), Counter[int]()
    for message_id, _, size_bytes, *_ in rows:
        counts[message_id >> _OFFSET_BITS] += 1
        sizes[message_id >> _OFFSET_BITS] += size_bytes
    return [(counts[each], sizes[each], each) for each in counts]


def _id_range(partition_id: int, offset: int) -> tuple[int, int]:
    """The first and last message id of a partition from `offset` on."""
    base = partition_id << _OFFSET_BITS
    return base | min(offset, _OFFSET_MASK), base | _OFFSET_MASK


def _pack_headers(headers: Mapping[str, bytes]) -> str:
    # Latin-1 maps each byte to the character of the same number, so any bytes survive JSON.
    return json.dumps({name: value.decode("latin-1") for name, value in headers.items()})


def _unpack_headers(packed: str) -> dict[str, bytes]:
    return {name: text.encode("latin-1") for name, text in json.loads(packed).items()}


def _message(partition: TopicPartition, row: Row) -> Message:
    message_id, timestamp_s, key, headers, value = row
    return Message(
        topic=partition.topic,
        partition=partition.partition,
        offset=message_id & _OFFSET_MASK,
        key=key,
        value=value,
        headers=_unpack_headers(headers),
        timestamp_s=timestamp_s,
    )


def _member(row: Row) -> Member:
    name, topics, epoch, seen_s, session_timeout_s = row
    return Member(name, tuple(json.loads(topics)), epoch, seen_s, session_timeout_s)
