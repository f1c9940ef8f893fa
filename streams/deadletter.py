"""Dead letters: messages that could not be used, kept with the reason, and sent back one day.

Knows nothing of what messages mean or why one could not be used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from streams.errors import InvalidMessageError, MessageTooLargeError, UnknownTopicError
from streams.log import Log
from streams.message import Message, NewMessage, TopicPartition
from streams.replay import send

REASON, ERROR = "reason", "error"
ORIGIN_TOPIC, ORIGIN_PARTITION, ORIGIN_OFFSET = "origin-topic", "origin-partition", "origin-offset"
DROPPED = "dropped"
ADDED = frozenset({REASON, ERROR, ORIGIN_TOPIC, ORIGIN_PARTITION, ORIGIN_OFFSET, DROPPED})
# Put before a header of the message whose name is one of ours, or begins so itself.
OURS_TOO = "original-"
# An error may quote what came, and that may be megabytes.
ERROR_CHARACTERS, KEY_CHARACTERS = 1000, 100
# Each may be as large as the topic allows, and all are held at once.
BATCH_MESSAGES = 16


def letter(message: Message, *, reason: str, error: str, limit_bytes: int) -> NewMessage:
    """A message that could not be used, with its bytes and headers, why, and where it lay.

    Only where that is more than `limit_bytes` its headers are left out, and then the rest; the header
    `dropped` says so, and the origin says where it may still be read.

    Args:
        message: as it was read.
        reason: the kind of error.
        error: what was wrong with this one; long ones are cut.
        limit_bytes: how large a letter may be.
    """
    added = {
        REASON: reason.encode(),
        ERROR: error[:ERROR_CHARACTERS].encode(errors="replace"),
        ORIGIN_TOPIC: message.topic.encode(),
        ORIGIN_PARTITION: str(message.partition).encode(),
        ORIGIN_OFFSET: str(message.offset).encode(),
    }
    kept = {_escaped(name): value for name, value in message.headers.items()}
    whole = NewMessage(message.key, message.value, {**kept, **added})
    if whole.size_bytes <= limit_bytes:
        return whole
    without = NewMessage(message.key, message.value, {**added, DROPPED: b"headers"})
    if without.size_bytes <= limit_bytes:
        return without
    name = message.key[:KEY_CHARACTERS]
    return NewMessage(name, b"", {**added, DROPPED: b"key, headers and value"})


def original(message: Message) -> tuple[str, NewMessage]:
    """The topic that a dead letter came from, and the message as it was there.

    Raises:
        InvalidMessageError: it does not say where it came from, or is not whole.
    """
    topic = message.headers.get(ORIGIN_TOPIC, b"").decode(errors="replace")
    if not topic:
        raise InvalidMessageError(
            f"the message at {message.offset} of {message.topic_partition} has no header "
            f"{ORIGIN_TOPIC!r}; only dead letters can be sent back: leave it where it is"
        )
    if DROPPED in message.headers:
        dropped = message.headers[DROPPED].decode(errors="replace")
        raise InvalidMessageError(
            f"the dead letter at {message.offset} of {message.topic_partition} lost its {dropped}, which "
            "was too large; send the image again from its source"
        )
    headers = {
        name.removeprefix(OURS_TOO): value
        for name, value in message.headers.items()
        if name not in ADDED
    }
    return topic, NewMessage(message.key, message.value, headers)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many letters were sent back, and why the others were not."""

    sent: int
    refused: tuple[str, ...]


def replay_letters(
    log: Log,
    partitions: Sequence[TopicPartition],
    since: Mapping[TopicPartition, int],
    *,
    rate: float,
    reached: Callable[[TopicPartition, int], None],
) -> Replayed:
    """Send dead letters back to where they came from, each once.

    A letter that fails again becomes another letter, behind where each partition ended when this began, and
    so waits for the next run.

    Args:
        log: where they are and go to.
        partitions: of the topic of dead letters.
        since: the first offset to send, per partition; without one, or beyond the end, the first there is.
        rate: messages a second; infinity does not wait.
        reached: told the next offset of a partition, after everything before it was sent.

    Raises:
        StreamError: the log failed; what `reached` was told of was sent.
    """
    sent, refused = 0, list[str]()
    bounds = {partition: log.bounds(partition) for partition in partitions}
    for partition, kept in bounds.items():
        offset = since.get(partition, kept.first)
        if not kept.first <= offset <= kept.end:
            offset = kept.first
        while offset < kept.end:
            limit = min(BATCH_MESSAGES, kept.end - offset)
            batch = log.read(partition, offset=offset, limit=limit)
            sent += _send_back(log, batch, refused, rate)
            offset += limit
            reached(partition, offset)
    return Replayed(sent, tuple(refused))


def _send_back(log: Log, letters: Sequence[Message], refused: list[str], rate: float) -> int:
    """Send what can be sent, and add to `refused` why the rest cannot; how many were sent."""
    found: list[tuple[str, NewMessage]] = []
    for each in letters:
        try:
            found.append(original(each))
        except InvalidMessageError as exc:
            refused.append(str(exc))
    groups = groupby(found, key=lambda pair: pair[0])
    return sum(_send(log, topic, [m for _, m in group], refused, rate) for topic, group in groups)


def _send(
    log: Log, topic: str, messages: Sequence[NewMessage], refused: list[str], rate: float
) -> int:
    batches: list[int] = []
    try:
        return send(log, topic, messages, rate=rate, sent=batches.append)
    except (UnknownTopicError, MessageTooLargeError) as exc:
        # The table of topics has changed since; one such letter must not stop those after it.
        rest = messages[sum(batches) :]
        if len(rest) == 1:
            refused.append(str(exc))
            return sum(batches)
    return sum(batches) + sum(_send(log, topic, [each], refused, rate) for each in rest)


def _escaped(name: str) -> str:
    return OURS_TOO + name if name in ADDED or name.startswith(OURS_TOO) else name
