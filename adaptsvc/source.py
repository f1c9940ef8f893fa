"""The stream as the worker sees it: messages to pixels, and images read again by their place.

It knows nothing of windows, labels or rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TypeAlias

import numpy as np

from adaptsvc.config import Settings
from adaptsvc.errors import ImageGoneError, ImageIdError
from adaptsvc.images import ImageLimits, Preprocess, decode
from adaptsvc.types import Float32, UInt8
from streams.log import Log
from streams.message import Message, Position, TopicPartition

LABEL_HEADER = "label"
# Ids are kept by the ten thousands, and a message may have one of megabytes.
MOST_ID_BYTES = 1024
BATCH_IMAGES, FLOAT32_BYTES = 64, 4
ZeroShot: TypeAlias = Callable[[UInt8], tuple[Float32, Float32, Float32]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where images come from and how they are read.

    Attributes:
        log: the stream.
        preprocess: how an image becomes its input.
        zero_shot: images (N, 3, H, W) -> frozen probabilities (N, C), UEO weights (N,), embeddings (N, D).
    """

    log: Log
    preprocess: Preprocess
    zero_shot: ZeroShot


class Pictures:
    """What the stream holds, as pixels.

    Args:
        source: where they come from.
        settings: the caps and the class names.
    """

    def __init__(self, source: Source, settings: Settings) -> None:
        self._limits = ImageLimits.of(settings.images)
        self._answer_bytes = FLOAT32_BYTES * len(settings.classes)
        self._source = source

    @property
    def sample_bytes(self) -> int:
        """What one takes in memory at most: its pixels, its zero-shot answer and its id."""
        return 3 * self._source.preprocess.size**2 + self._answer_bytes + MOST_ID_BYTES

    def of(self, message: Message) -> UInt8:
        """The pixels (3, H, W) of a message.

        Raises:
            ImageError: its bytes are no image.
            ImageIdError: its key is no image id.
        """
        check_id(message.key)
        return decode(message.value, self._source.preprocess, self._limits)

    def at(self, image_id: str, position: Position) -> UInt8:
        """The pixels (3, H, W) of an image that came before, read again.

        Raises:
            ImageGoneError: the stream no longer holds it.
            ImageError: it is over a cap that was lower when it came.
        """
        if (message := self.message(image_id, position)) is None:
            raise ImageGoneError(
                f"the image {image_id!r} came at offset {position.offset} of {position.partition}, and "
                "is no longer there; send the label with its image, or keep images longer in topics.yaml"
            )
        return self.of(message)

    def message(self, key: str, position: Position) -> Message | None:
        """The message at a place; none if it is gone, or another one lies there (a new log)."""
        found = self._source.log.read(position.partition, offset=position.offset, limit=1)
        return next((each for each in map(named, found) if each.key == key), None)

    def zero_shot(self, pixels: Sequence[UInt8]) -> Iterator[tuple[Float32, float, Float32]]:
        """The frozen probabilities (C,), UEO weight and embedding (D,) of each image, in batches."""
        for start in range(0, len(pixels), BATCH_IMAGES):
            batch = np.stack(pixels[start : start + BATCH_IMAGES])
            probabilities, weights, embeddings = self._source.zero_shot(batch)
            yield from zip(probabilities, map(float, weights), embeddings, strict=True)


def named(message: Message) -> Message:
    """An image without a key goes by the SHA-256 of its bytes, as in the service."""
    if message.key or not message.value:
        return message
    return replace(message, key=sha256(message.value).hexdigest())


def check_id(image_id: str) -> None:
    """Refuse what cannot be an image id.

    Raises:
        ImageIdError: it is empty, or too long.
    """
    if not image_id:
        raise ImageIdError("got neither an image nor its id; send one as value or the other as key")
    if (size_bytes := len(image_id.encode())) > MOST_ID_BYTES:
        raise ImageIdError(
            f"got an image id of {size_bytes} bytes, beginning with {image_id[:40]!r}; at most "
            f"{MOST_ID_BYTES} are allowed: send the image under a shorter one"
        )


def place_of(message: Message) -> tuple[str, int, int]:
    """Where a message lies, as samples note it."""
    return message.topic, message.partition, message.offset


def position_of(place: tuple[str, int, int]) -> Position:
    """The same, as the stream knows it."""
    topic, partition, offset = place
    return Position(TopicPartition(topic, partition), offset)
