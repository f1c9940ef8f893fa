"""Claims about sending a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from streams.log import MemoryLog
from streams.message import NewMessage, Position, TopicPartition
from streams.replay import BATCH_BYTES, file_messages, image_files, send
from streams.topics import load_topics

TOPIC = "images.unlabeled"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cats").mkdir()
    for name in ("b.PNG", "a.jpg", "cats/c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def everything(log: MemoryLog) -> dict[str, bytes]:
    partitions = load_topics().partitions([TOPIC])
    found = [m for p in partitions for m in log.read(p, offset=0, limit=1000)]
    return {message.key: message.value for message in found}


def test_image_files_are_found_in_subfolders_in_order_and_others_are_not(folder: Path) -> None:
    names = [file.relative_to(folder).as_posix() for file in image_files(folder)]
    assert names == ["a.jpg", "b.PNG", "cats/c.webp"]


def test_a_file_becomes_a_message_of_its_bytes_named_by_its_path(folder: Path) -> None:
    messages = list(file_messages(image_files(folder), root=folder))
    assert [m.key for m in messages] == ["a.jpg", "b.PNG", "cats/c.webp"]
    assert messages[2].value == b"cats/c.webp"
    assert messages[2].headers["content-type"] == b"image/webp"
    assert messages[2].headers["image-id"] == b"cats/c.webp"


def test_everything_is_sent_and_counted(folder: Path) -> None:
    log, counts = MemoryLog(load_topics()), list[int]()
    messages = file_messages(image_files(folder), root=folder)
    assert send(log, TOPIC, messages, rate=float("inf"), sent=counts.append) == 3
    assert sum(counts) == 3
    assert set(everything(log)) == {"a.jpg", "b.PNG", "cats/c.webp"}


@pytest.mark.parametrize(("append_s", "waited"), [(0.0, [1.0, 0.5]), (0.25, [0.75, 0.25])])
def test_a_rate_is_kept_whatever_appending_takes(
    folder: Path, append_s: float, waited: list[float]
) -> None:
    clock, waits = [100.0], list[float]()

    class Slow(MemoryLog):
        def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
            clock[0] += append_s
            return super().append(topic, messages)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    messages = file_messages(image_files(folder), root=folder)
    send(Slow(load_topics()), TOPIC, messages, rate=2, sleep=sleep, now=lambda: clock[0])
    assert waits == waited


def test_a_rate_of_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        send(MemoryLog(load_topics()), TOPIC, [], rate=0)


def test_messages_sent_lie_in_the_partition_of_their_key(folder: Path) -> None:
    log = MemoryLog(load_topics())
    send(log, TOPIC, file_messages(image_files(folder), root=folder), rate=float("inf"))
    places = [p for p in load_topics().partitions([TOPIC]) if log.read(p, offset=0, limit=9)]
    assert all(isinstance(place, TopicPartition) for place in places)
    assert places


def test_an_append_is_bounded_in_bytes_and_what_is_larger_goes_alone() -> None:
    sizes = [BATCH_BYTES // 2, BATCH_BYTES // 4, BATCH_BYTES // 2, BATCH_BYTES, 1, 1]
    counts: list[int] = []

    class Counting(MemoryLog):
        def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
            counts.append(len(messages))
            return super().append(topic, messages)

    messages = (NewMessage(str(n), bytes(size)) for n, size in enumerate(sizes))
    assert send(Counting(load_topics()), TOPIC, messages, rate=float("inf")) == 6
    assert counts == [2, 1, 1, 2]
