"""Where messages go that cannot be used, and how they come back. It knows nothing of why they cannot."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from adaptsvc.errors import AdaptsvcError
from adaptsvc.streaming import DEAD_LETTERS
from adaptsvc.versions.files import write_atomic
from streams.deadletter import Replayed, letter, replay_letters
from streams.errors import MessageTooLargeError
from streams.log import Log
from streams.message import Message, TopicPartition

log = logging.getLogger(__name__)
Dead: TypeAlias = tuple[Message, AdaptsvcError]


def bury(stream: Log, dead: Sequence[Dead]) -> int:
    """Append dead letters that keep bytes and headers, and say why and from where; how many there were.

    None is too large: what does not fit is left out, and the letter says so.
    """
    if not dead:
        return 0
    try:
        _append(stream, dead, sys.maxsize)
    except MessageTooLargeError as exc:
        _append(stream, dead, exc.limit_bytes)
    reasons = Counter(type(error).__name__ for _, error in dead)
    log.warning(
        "%d messages cannot be used and went to %s (%s); the first: %s",
        len(dead),
        DEAD_LETTERS,
        ", ".join(f"{name} {count}" for name, count in reasons.most_common()),
        dead[0][1],
    )
    return len(dead)


def send_back(stream: Log, progress: Path, *, partitions: int, rate: float) -> Replayed:
    """Send the dead letters that were not sent before to the topics they came from.

    Args:
        stream: where they are.
        progress: the file that says up to where they were sent. A consumer group would say it as well, but
            one that is rarely used would keep retention from ever deleting a dead letter.
        partitions: of the topic of dead letters.
        rate: messages a second; infinity does not wait.

    Raises:
        StreamError: the log failed; those sent until then are noted.
        OSError: there is no place to note them; nothing was sent.
    """
    progress.parent.mkdir(parents=True, exist_ok=True)
    reached = _read(progress)

    def note(partition: TopicPartition, offset: int) -> None:
        reached[partition] = offset
        content = {str(each.partition): offset for each, offset in reached.items()}
        write_atomic(progress, json.dumps(content).encode())

    every = [TopicPartition(DEAD_LETTERS, number) for number in range(partitions)]
    return replay_letters(stream, every, dict(reached), rate=rate, reached=note)


def _append(stream: Log, dead: Sequence[Dead], limit_bytes: int) -> None:
    letters = [
        letter(message, reason=type(error).__name__, error=str(error), limit_bytes=limit_bytes)
        for message, error in dead
    ]
    stream.append(DEAD_LETTERS, letters)


def _read(progress: Path) -> dict[TopicPartition, int]:
    """Up to where letters were sent; a file that cannot be read is as none: sent twice does no harm."""
    try:
        content = json.loads(progress.read_text())
        return {TopicPartition(DEAD_LETTERS, int(k)): int(v) for k, v in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        log.warning("%s cannot be read (%s); every dead letter is sent again", progress, exc)
        return {}
