"""A worker on an in-memory log, for the tests of what it does."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from PIL import Image

from adaptsvc.bootstrap import Ready, prepare
from adaptsvc.config import Settings
from adaptsvc.learner import Learner
from adaptsvc.metrics import MessageOutcome, Observer, Outcome
from adaptsvc.publishing import Publisher
from adaptsvc.serving.encoder import Runtime
from adaptsvc.tracing import OFF, Tracer
from adaptsvc.worker import Worker
from adaptsvc.worker_parts import Parts
from streams.log import Log, MemoryLog
from streams.message import NewMessage, TopicPartition
from streams.topics import load_topics


class Counter(Observer):
    def __init__(self) -> None:
        self.messages: dict[str, int] = {}
        self.rounds: list[str] = []
        self.checkpoints_at: list[float] = []
        self.refused = 0
        self.full: list[bool] = []

    def received(self, topic: str, outcome: MessageOutcome, messages: int) -> None:
        self.messages[outcome] = self.messages.get(outcome, 0) + messages

    def round_ended(self, method: str, outcome: Outcome, seconds: float, images: int) -> None:
        self.rounds.append(outcome)

    def checkpointed(self, at_s: float) -> None:
        self.checkpoints_at.append(at_s)

    def checkpoints_refused(self, checkpoints: int) -> None:
        self.refused += checkpoints

    def disk_full(self, full: bool) -> None:
        self.full.append(full)


class Bench:
    """A worker on a log, by default one in memory, and everything around it."""

    def __init__(self, settings: Settings, log: Log | None = None) -> None:
        self.settings = settings
        self.log = log or MemoryLog(load_topics())
        self.enforce_retention: Callable[[float], object] = lambda _now: None
        self.ready: Ready = prepare(settings)
        self.observer = Counter()
        self.stop = threading.Event()
        self.check_lease: Callable[[], None] = lambda: None
        self.give_way: Callable[[threading.Event], object] = lambda _stop: None
        self.prune: Callable[[], object] = lambda: None
        self.tracer: Tracer = OFF
        self.worker = self.start()

    def start(self) -> Worker:
        ready, runtime = self.ready, Runtime()
        learner = Learner(ready.clip, ready.prompt, ready.encoder)
        publisher = Publisher(ready.store, ready.pointer, runtime, self.settings)
        parts = Parts(
            log=self.log,
            store=ready.store,
            pointer=ready.pointer,
            learner=learner,
            publisher=publisher,
            preprocess=ready.clip.preprocess,
            observer=self.observer,
            enforce_retention=lambda now: self.enforce_retention(now),
            check_lease=lambda: self.check_lease(),
            give_way=lambda stop: self.give_way(stop),
            prune=lambda: self.prune(),
            tracer=self.tracer,
        )
        worker = Worker(parts, self.settings, self.stop)
        worker.restore()
        return worker

    def send(self, pictures: Mapping[str, bytes]) -> None:
        messages = [NewMessage(name, data, {"source": b"test"}) for name, data in pictures.items()]
        self.log.append("images.unlabeled", messages)

    def teach(self, count: int, start: int = 0) -> None:
        """Labeled pictures, one colour per class; five of the first sixteen are held out."""
        messages = [
            NewMessage(
                f"taught-{k}", one_colour(k), {"label": self.settings.classes[k % 3].encode()}
            )
            for k in range(start, start + count)
        ]
        self.log.append("images.labeled", messages)

    def restart(self) -> Worker:
        """As another process would: the model loaded anew, all else from disk and the stream."""
        self.ready = prepare(self.settings)
        self.worker = self.start()
        return self.worker

    def waiting(self) -> int:
        """Messages that a worker starting now would be given."""
        return self.log.consumer(
            self.settings.stream.group, ["images.unlabeled", "images.labeled"], member="worker"
        ).lag()

    def all_of(self, topic: str, partition: int = 0) -> list[NewMessage]:
        found = self.log.read(TopicPartition(topic, partition), offset=0, limit=1000)
        return [NewMessage(m.key, m.value, m.headers) for m in found]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(message.value) for message in self.all_of("model.events")]

    @property
    def serving(self) -> int | None:
        return self.ready.pointer.read().version


COLOURS = ((230, 30, 30), (30, 200, 60), (40, 60, 240))
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
# Random towers keep little of what the guard asks for; what it refuses has tests of its own.
LENIENT = {"agreement": 0.0, "marginal_entropy_kept": 0.0}
TUNE = {"labels_min": 16, "passes": 2.0, "batch_images": 6}


def one_colour(number: int) -> bytes:
    """A picture of the colour of its class, a little darker than the one before."""
    colour = tuple(value - number % 16 for value in COLOURS[number % 3])
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


def teaching(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """Settings under which sixteen labels start a round."""
    merged: dict[str, dict[str, Any]] = {"guard": LENIENT, "tune": TUNE}
    for name, values in sections.items():
        merged[name] = {**merged.get(name, {}), **values}
    update = {name: getattr(settings, name).model_copy(update=v) for name, v in merged.items()}
    return settings.model_copy(update=update)


def pictures(png: Callable[[int], bytes], count: int, start: int = 0) -> dict[str, bytes]:
    return {f"image-{index}": png(index) for index in range(start, start + count)}


def drain(worker: Worker, now: float = 1000.0) -> None:
    while worker.run_once(now).received:
        pass
