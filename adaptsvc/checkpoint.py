"""What the worker must remember to go on where it stopped; it knows nothing of models or streams.

The weights are not in it: they are the serving version, immutable in the store, and every round starts from
there with a fresh optimizer. What remains is small: offsets, the window's references, two counts, and what
labels and images wait for one another.

The last two are kept. One that is cut, altered or unreadable is refused, and the one before it is taken:
older, but whole; what came since is then read again, and an image that is read again changes nothing.

A checkpoint of a version before ours lacks what that version did not remember, and is read as if that were
empty: nothing is lost, because that version had not acknowledged a label before its image came.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from adaptsvc.errors import CheckpointError
from adaptsvc.versions.files import write_atomic

NAME, PREVIOUS = "checkpoint.json", "checkpoint.previous.json"

Natural: TypeAlias = Annotated[int, Field(ge=0)]
# There may be tens of thousands of these, so they are rows: image id, topic, partition, offset, time in s
# (and the label).
SeenRow: TypeAlias = tuple[str, str, Natural, Natural, FiniteFloat]
LabelRow: TypeAlias = tuple[str, str, Natural, Natural, FiniteFloat, str]


class SampleReference(BaseModel):
    """Where an image of the window can be read again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_id: str
    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)


class LabelReference(SampleReference):
    """Where a labeled image can be read again, and the name of its class."""

    label: str


class JoinReferences(BaseModel):
    """What labels and images wait for one another, as `streams.labels.JoinState` has it.

    Attributes:
        seen: images that a later label can be for, oldest first.
        joined: the label of each of them that has one.
        waiting: labels whose image has not come, oldest first.
        latest_s: the latest time seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: tuple[SeenRow, ...] = ()
    joined: tuple[LabelRow, ...] = ()
    waiting: tuple[LabelRow, ...] = ()
    latest_s: FiniteFloat = 0.0


class Checkpoint(BaseModel):
    """The worker's memory.

    Attributes:
        offsets: next offset to read, per ``topic/partition``.
        window: the images of the window, oldest first.
        labels: the labeled images, oldest first.
        join: what labels and images wait for one another.
        new_images: images that came since the last unlabeled round.
        new_labels: labels that came since the last round on labels.
        rounds: how many rounds there have been; the seed of the next one is made from it.
        patience: what the last rounds came to, as adaptsvc.trust.patience counts it.
        task: digest of the classes and the prompt they were for; empty in one from before it was kept.
        drift: what adaptsvc.watching keeps; empty before it has seen anything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    offsets: dict[str, int] = {}
    window: tuple[SampleReference, ...] = ()
    labels: tuple[LabelReference, ...] = ()
    join: JoinReferences = JoinReferences()
    new_images: int = Field(0, ge=0)
    new_labels: int = Field(0, ge=0)
    rounds: int = Field(0, ge=0)
    patience: dict[str, int] = {}
    task: str = ""
    drift: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint as a worker finds it when it starts.

    Attributes:
        checkpoint: the last one that can be read; an empty one where there is none.
        refused: why each newer one cannot be read.
        lost: there have been checkpoints, and none can be read.
    """

    checkpoint: Checkpoint
    refused: tuple[str, ...]
    lost: bool


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; the last readable one before is kept beside it.

    Raises:
        DiskFullError: there is no room; the last one is as it was.
    """
    directory.mkdir(parents=True, exist_ok=True)
    current = directory / NAME
    if _is_readable(current):
        write_atomic(directory / PREVIOUS, current.read_bytes())
    content = checkpoint.model_dump(mode="json")
    record = {"digest": _digest(content), "content": content}
    write_atomic(current, json.dumps(record).encode())


def load(directory: Path) -> Checkpoint:
    """The last checkpoint that can be read; an empty one where there is none."""
    return find(directory).checkpoint


def find(directory: Path) -> Found:
    """The last checkpoint that can be read, and why newer ones cannot."""
    refused: list[str] = []
    for name in (NAME, PREVIOUS):
        if not (directory / name).exists():
            continue
        try:
            return Found(_read(directory / name), tuple(refused), lost=False)
        except CheckpointError as exc:
            refused.append(str(exc))
    return Found(Checkpoint(), tuple(refused), lost=bool(refused))


def _is_readable(path: Path) -> bool:
    try:
        _read(path)
    except CheckpointError:
        return False
    return True


def _read(path: Path) -> Checkpoint:
    try:
        record = json.loads(path.read_text())
        content = record["content"]
        if record["digest"] != _digest(content):
            raise CheckpointError(
                f"{path} was altered or cut: its digest does not match its content"
            )
        return Checkpoint.model_validate(content)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as exc:
        raise CheckpointError(f"{path} cannot be read: {exc}") from exc


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
