"""An intake on an in-memory log, for the tests of what it makes of messages."""

from __future__ import annotations

import numpy as np

from adaptsvc.checkpoint import Checkpoint, JoinReferences
from adaptsvc.config import Settings
from adaptsvc.images import ImageLimits, Preprocess, decode
from adaptsvc.intake import Intake
from adaptsvc.metrics import LabelTrouble, MessageOutcome, Observer
from adaptsvc.source import Source
from adaptsvc.streaming import DEAD_LETTERS, IMAGES, LABELS
from adaptsvc.types import Float32, UInt8
from streams.log import MemoryLog
from streams.message import Message, NewMessage, TopicPartition
from streams.topics import load_topics
from tests.streams.clock import FakeClock

HALF = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(16, "shortest", "bicubic", HALF, HALF)
CLASSES = ("cat", "dog", "żaba")


class Counter(Observer):
    def __init__(self) -> None:
        self.seen: dict[tuple[str, MessageOutcome], int] = {}
        self.joined = self.waiting_labels = 0
        self.trouble: dict[LabelTrouble, int] = {}

    def received(self, topic: str, outcome: MessageOutcome, messages: int) -> None:
        key = (topic, outcome)
        self.seen[key] = self.seen.get(key, 0) + messages

    def labels_joined(self, labels: int) -> None:
        self.joined += labels

    def label_trouble(self, trouble: LabelTrouble, labels: int) -> None:
        self.trouble[trouble] = self.trouble.get(trouble, 0) + labels

    def labels_waiting(self, labels: int) -> None:
        self.waiting_labels = labels


class Bench:
    """An intake on an in-memory log; zero-shot finds every class as likely as the others."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.clock, self.observer = settings, FakeClock(), Counter()
        self.log = MemoryLog(load_topics(), now=self.clock, session_timeout_s=float("inf"))
        self.consumer = self.log.consumer("test", [IMAGES, LABELS])
        self.intake = self.start()

    def start(self, settings: Settings | None = None) -> Intake:
        source = Source(self.log, PREPROCESS, zero_shot)
        return Intake(source, settings or self.settings, self.observer)

    def image(self, name: str, data: bytes) -> int:
        return self.deliver(IMAGES, NewMessage(name, data))

    def label(self, name: str, data: bytes, label: str) -> int:
        """How many dead letters came of it."""
        return self.deliver(LABELS, NewMessage(name, data, {"label": label.encode()}))

    def deliver(self, topic: str, *messages: NewMessage) -> int:
        self.log.append(topic, messages)
        return self.intake.receive(self.poll())

    def poll(self) -> tuple[Message, ...]:
        return self.consumer.poll(max_messages=1000, max_bytes=10**8, timeout_s=0.0)

    def dead(self) -> tuple[Message, ...]:
        return self.log.read(TopicPartition(DEAD_LETTERS, 0), offset=0, limit=1000)

    def restarted(
        self, settings: Settings | None = None, join: JoinReferences | None = None
    ) -> Intake:
        """Another intake that has only the checkpoint and the stream."""
        window, labels = self.intake.references()
        saved = Checkpoint(
            offsets=self.intake.offsets,
            window=window,
            labels=labels,
            join=join or self.intake.join_references(),
            new_images=self.intake.new_images,
            new_labels=self.intake.new_labels,
        )
        other = self.start(settings)
        other.restore(Checkpoint.model_validate_json(saved.model_dump_json()))
        return other

    def restart(self, join: JoinReferences | None = None) -> None:
        """Go on with an intake that has only the checkpoint and the stream."""
        self.intake = self.restarted(join=join)


def zero_shot(pixels: UInt8) -> tuple[Float32, Float32, Float32]:
    even = np.full((len(pixels), 3), 1 / 3, np.float32)
    embeddings = pixels.reshape(len(pixels), -1)[:, :4].astype(np.float32)
    return even, np.full(len(pixels), 1 / 3, np.float32), embeddings


def pixels_of(data: bytes) -> UInt8:
    return decode(data, PREPROCESS, ImageLimits())
