"""What a round was made of: the file beside a version that lets it be run again.

It knows nothing of torch, streams or stores. With the manifest (parent, settings, seed, class names, model)
it is all that a round depends on; the images themselves stay in the stream, and are named by where they lie.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adaptsvc.errors import VersionCorruptError
from adaptsvc.types import Float32

Kind: TypeAlias = Literal["images", "labels"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Member:
    """One image of a round.

    Attributes:
        topic: where it lies.
        partition: where in the topic.
        offset: where in the partition.
        crc32: of its pixels (3, H, W) uint8, as they were learned from.
    """

    topic: str
    partition: int
    offset: int
    crc32: int


class Members(_Record):
    """The images of a round in its order, column by column: a quarter of the bytes of one object each."""

    topics: tuple[str, ...]
    topic: tuple[int, ...]  # index into `topics`
    partition: tuple[int, ...]
    offset: tuple[int, ...]
    crc32: tuple[int, ...]

    @model_validator(mode="after")
    def _even(self) -> Members:
        columns = (self.topic, self.partition, self.offset, self.crc32)
        if len({len(column) for column in columns}) != 1 or not self.topic:
            raise ValueError("the columns must have one length, of at least 1")
        if not all(0 <= index < len(self.topics) for index in self.topic):
            raise ValueError("a topic is not among the topics")
        return self

    @classmethod
    def of(cls, members: Sequence[Member]) -> Members:
        """The columns of these."""
        topics = tuple(sorted({member.topic for member in members}))
        return cls(
            topics=topics,
            topic=tuple(topics.index(member.topic) for member in members),
            partition=tuple(member.partition for member in members),
            offset=tuple(member.offset for member in members),
            crc32=tuple(member.crc32 for member in members),
        )

    def __len__(self) -> int:
        return len(self.topic)

    def rows(self) -> Iterator[Member]:
        """One by one."""
        columns = zip(self.topic, self.partition, self.offset, self.crc32, strict=True)
        for topic, partition, offset, crc32 in columns:
            yield Member(self.topics[topic], partition, offset, crc32)


class Machine(_Record):
    """What the numbers of a round depend on beside its inputs.

    Attributes:
        cpu: its model.
        device: where torch computed.
        threads: of torch.
        ranks: processes that shared the round.
        torch: its version.
        numpy: its version.
        pillow: its version; it decodes.
    """

    cpu: str
    device: str
    threads: int = Field(ge=1)
    ranks: int = Field(ge=1)
    torch: str
    numpy: str
    pillow: str


class RoundRecord(_Record):
    """One round.

    Attributes:
        kind: on images alone, or on labels.
        members: what it learned from, in order.
        weights: base64 of one little-endian float32 for each member, its sample weight; empty on labels.
            They are kept because the last bits depend on how images were batched when they came.
        targets: the class of each member; empty on images.
        machine: where it ran.
    """

    schema_version: Literal[1] = 1
    kind: Kind
    members: Members
    weights: str = ""
    targets: tuple[int, ...] = ()
    machine: Machine

    @model_validator(mode="after")
    def _whole(self) -> RoundRecord:
        given = len(self.sample_weights()) if self.kind == "images" else len(self.targets)
        if given != len(self.members):
            raise ValueError(f"{given} weights or targets for {len(self.members)} members")
        return self

    def sample_weights(self) -> Float32:
        """(N,)."""
        return np.frombuffer(base64.b64decode(self.weights), dtype="<f4").astype(np.float32)

    def to_bytes(self) -> bytes:
        """As JSON."""
        return self.model_dump_json().encode()


def pack_weights(weights: Sequence[float]) -> str:
    """Sample weights as a record keeps them.

    Example:
        >>> pack_weights([1.0, 0.5])
        'AACAPwAAAD8='
    """
    return base64.b64encode(np.asarray(weights, dtype="<f4").tobytes()).decode()


def parse_record(data: bytes, version: int) -> RoundRecord:
    """A record from its JSON.

    Raises:
        VersionCorruptError: malformed, or of another schema.
    """
    try:
        return RoundRecord.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise VersionCorruptError(
            f"the record of the round of version {version} is not valid: {where}: {first['msg']}; "
            "it cannot be run again",
            version,
        ) from exc
