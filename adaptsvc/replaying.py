"""What `adaptsvc replay` sends: images of a folder, of the bundled data set or of a topic, corrupted or not.

It knows nothing of the command line, of rates, or of where they go.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

from adaptsvc import tracing
from adaptsvc.corruption import Corruption, corrupt
from adaptsvc.demo.data import Picture, load_scene
from adaptsvc.errors import AdaptsvcError, ConfigError, ImageError
from adaptsvc.images import ImageLimits
from streams.again import in_order, resent, shuffled, spans
from streams.errors import UnknownTopicError
from streams.log import Log
from streams.message import NewMessage
from streams.replay import SUFFIXES, file_messages, image_files
from streams.topics import Topics

Origin: TypeAlias = Literal["folder", "topic", "data set"]
BUNDLED, BUNDLED_IMAGES = "clothes", 1700  # a tenth of them are no clothes: all there are
CORRUPTION_HEADER = "corruption"


@dataclass(frozen=True, slots=True)
class Choice:
    """What to send.

    Attributes:
        source: a folder, a topic, or BUNDLED; a folder comes first.
        offsets: of a topic, as `streams.again.spans` takes them; empty: everything.
        shuffle: whether the order is drawn from the seed.
        seed: of that order.
        limit: how many at most; 0: all.
    """

    source: str
    offsets: str = ""
    shuffle: bool = False
    seed: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Messages to send.

    Attributes:
        origin: what kind of thing they come from.
        count: how many there are at most.
        messages: read as they are asked for.
    """

    origin: Origin
    count: int
    messages: Iterator[NewMessage]


def origin_of(source: str, topics: Topics) -> Origin:
    """What a source names.

    Raises:
        ConfigError: nothing.
    """
    if Path(source).is_dir():
        return "folder"
    if source in topics.specs:
        return "topic"
    if source == BUNDLED:
        return "data set"
    raise ConfigError(
        f"got {source!r}; expected a folder that exists, one of the topics "
        f"{', '.join(sorted(topics.specs))}, or {BUNDLED!r}, the bundled data set"
    )


def gather(choice: Choice, log: Log, topics: Topics) -> Outgoing:
    """The messages of a choice, in its order.

    Raises:
        ConfigError: the source is unknown, or the offsets cannot be read or are not those of a topic.
        AdaptsvcError: there is nothing to send.
    """
    origin = origin_of(choice.source, topics)
    if choice.offsets and origin != "topic":
        raise ConfigError(
            f"--offsets are of a topic; {choice.source!r} is a {origin}: leave them out"
        )
    if origin == "topic":
        found = _of_topic(choice, log, topics)
    elif origin == "folder":
        found = _of_folder(choice)
    else:
        found = _of_bundle(choice)
    if not choice.limit:
        return found
    return Outgoing(origin, min(choice.limit, found.count), islice(found.messages, choice.limit))


class Corrupter:
    """Corrupts the images of messages; those without a value go through as they are.

    Args:
        corruption: what to do.
        limits: of what is decoded.

    Attributes:
        unreadable: ids of what is no image we read; they are left out.
    """

    def __init__(self, corruption: Corruption, limits: ImageLimits) -> None:
        self._corruption = corruption
        self._limits = limits
        self.unreadable: list[str] = []

    def corrupted(self, messages: Iterable[NewMessage]) -> Iterator[NewMessage]:
        """The same keys and headers with corrupted images; two headers say what they are now."""
        name = f"{self._corruption.kind}/{self._corruption.severity}/{self._corruption.seed}"
        for message in messages:
            if not message.value:
                yield message
                continue
            try:
                worse = corrupt(message.value, message.key, self._corruption, self._limits)
            except ImageError:
                self.unreadable.append(message.key)
                continue
            headers = {
                **message.headers,
                "content-type": worse.content_type.encode(),
                CORRUPTION_HEADER: name.encode(),
            }
            yield NewMessage(message.key, worse.data, headers)


def _of_topic(choice: Choice, log: Log, topics: Topics) -> Outgoing:
    try:
        parts = spans(log, topics, choice.source, choice.offsets)
    except (ValueError, UnknownTopicError) as exc:
        raise ConfigError(f"--offsets: {exc}") from exc
    count = sum(part.length for part in parts)
    if not count:
        raise AdaptsvcError(
            f"{choice.source} holds no messages{' in that range' if choice.offsets else ''}; "
            "send some first, or name another topic or range"
        )
    messages = shuffled(log, parts, choice.seed) if choice.shuffle else in_order(log, parts)
    return Outgoing("topic", count, map(resent, messages))


def _of_folder(choice: Choice) -> Outgoing:
    folder = Path(choice.source)
    files = image_files(folder)
    if not files:
        raise AdaptsvcError(
            f"{folder} holds no image files; expected one of {', '.join(sorted(SUFFIXES))}"
        )
    if choice.shuffle:
        random.Random(choice.seed).shuffle(files)
    return Outgoing("folder", len(files), file_messages(files, root=folder))


def _of_bundle(choice: Choice) -> Outgoing:
    pictures = list(load_scene(0, streamed=BUNDLED_IMAGES, held_out=0).stream)
    if choice.shuffle:
        random.Random(choice.seed).shuffle(pictures)
    return Outgoing("data set", len(pictures), map(_picture_message, pictures))


def _picture_message(picture: Picture) -> NewMessage:
    headers = {
        "content-type": b"image/png",
        "image-id": picture.image_id.encode(),
        "source": b"replay",
    }
    return NewMessage(picture.image_id, picture.data, headers)


def traced(message: NewMessage) -> NewMessage:
    """The message as one of the trace that runs here; as it is where nothing is traced."""
    if not (named := tracing.headers()):
        return message
    return NewMessage(message.key, message.value, {**message.headers, **named})
