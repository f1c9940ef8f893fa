"""Claims about burying and sending back: nothing is too large to bury, and nothing is sent twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptsvc.deadletters import bury, send_back
from adaptsvc.errors import NotAnImageError, UnknownClassError
from adaptsvc.streaming import DEAD_LETTERS, IMAGES
from streams.errors import LogBusyError
from streams.log import MemoryLog
from streams.message import Message, NewMessage, TopicPartition
from streams.topics import load_topics

FAST = float("inf")


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(load_topics())


def buried(log: MemoryLog, *names: str) -> int:
    error = NotAnImageError("no")
    return bury(log, [(Message(IMAGES, 0, 7, name, b"x", {}, 0.0), error) for name in names])


def sent(log: MemoryLog, progress: Path) -> int:
    return send_back(log, progress, partitions=1, rate=FAST).sent


def keys(log: MemoryLog, topic: str) -> set[str]:
    partitions = load_topics().partitions([topic])
    return {m.key for p in partitions for m in log.read(p, offset=0, limit=1000)}


def test_burying_nothing_writes_nothing(log: MemoryLog) -> None:
    assert bury(log, []) == 0
    assert keys(log, DEAD_LETTERS) == set()


def test_the_log_says_why_and_how_often(log: MemoryLog, caplog: pytest.LogCaptureFixture) -> None:
    wrong, none = UnknownClassError("got the label 'cta'"), NotAnImageError("no")
    message = Message(IMAGES, 0, 7, "a", b"x", {}, 0.0)
    bury(log, [(message, wrong), (message, none), (message, wrong)])
    assert caplog.messages == [
        f"3 messages cannot be used and went to {DEAD_LETTERS} (UnknownClassError 2, NotAnImageError 1); "
        "the first: got the label 'cta'"
    ]


def test_one_message_that_is_too_large_for_a_letter_leaves_the_others_whole(
    log: MemoryLog,
) -> None:
    limit = load_topics().spec(DEAD_LETTERS).max_message_bytes
    large = Message(IMAGES, 0, 1, "large", b"x" * limit, {}, 0.0)
    small = Message(IMAGES, 0, 2, "small", b"x", {"source": b"test"}, 0.0)
    assert bury(log, [(large, NotAnImageError("no")), (small, NotAnImageError("no"))]) == 2
    first, second = log.read(TopicPartition(DEAD_LETTERS, 0), offset=0, limit=9)
    assert first.headers["dropped"] == b"key, headers and value"
    assert (second.value, second.headers["source"]) == (b"x", b"test")


def test_letters_are_sent_once_over_runs_and_new_ones_by_the_next(
    log: MemoryLog, tmp_path: Path
) -> None:
    progress = tmp_path / "replayed.json"
    assert buried(log, "a", "b") == 2
    assert (sent(log, progress), sent(log, progress)) == (2, 0)
    buried(log, "c")
    assert sent(log, progress) == 1
    assert keys(log, IMAGES) == {"a", "b", "c"}


def test_a_run_that_broke_off_goes_on_where_it_was(log: MemoryLog, tmp_path: Path) -> None:
    progress, append, calls = tmp_path / "replayed.json", log.append, iter(range(100))

    def busy_the_second_time(topic: str, messages: list[NewMessage]) -> object:
        if topic == IMAGES and next(calls) == 1:
            raise LogBusyError(Path("log"), "busy")
        return append(topic, messages)

    buried(log, *map(str, range(40)))
    log.append = busy_the_second_time  # type: ignore[method-assign,assignment]
    with pytest.raises(LogBusyError):
        sent(log, progress)
    assert len(keys(log, IMAGES)) == 16
    assert sent(log, progress) == 24
    assert len(keys(log, IMAGES)) == 40


@pytest.mark.parametrize("content", ["", "[]", '{"0": "many"}', "\x00"])
def test_progress_that_cannot_be_read_sends_all_again_and_says_so(
    log: MemoryLog, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    progress = tmp_path / "replayed.json"
    progress.write_text(content)
    buried(log, "a")
    assert sent(log, progress) == 1
    assert str(progress) in caplog.text
    assert sent(log, progress) == 0


def test_letters_are_sent_only_where_it_can_be_noted(log: MemoryLog, tmp_path: Path) -> None:
    buried(log, "a")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        sent(log, tmp_path / "file" / "replayed.json")
    assert keys(log, IMAGES) == set()
    assert sent(log, tmp_path / "new" / "home" / "replayed.json") == 1
