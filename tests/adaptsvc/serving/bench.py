"""The application over a real predictor and real threads, for the tests; sessions that hang, fail or lie."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adaptsvc.config import Settings
from adaptsvc.images import ImageLimits, decode
from adaptsvc.metrics import Observer
from adaptsvc.serving.answers import Classifier
from adaptsvc.serving.app import create_app
from adaptsvc.serving.batching import BatchLimits
from adaptsvc.serving.classes import add_classes
from adaptsvc.serving.door import Door
from adaptsvc.serving.drifting import DriftDesk, add_drift
from adaptsvc.serving.encoder import Encoder, Runtime
from adaptsvc.serving.engine import Engine, EngineLimits
from adaptsvc.serving.gate import Gate, GateLimits
from adaptsvc.serving.live import Live
from adaptsvc.serving.predictor import Predictor
from adaptsvc.serving.requests import RequestLimits
from adaptsvc.serving.tensors import add_tensors
from adaptsvc.serving.traced import Traced
from adaptsvc.serving.versioning import add_versions
from adaptsvc.serving.waiting import Desk
from adaptsvc.tracing import OFF, Tracer
from adaptsvc.versions.board import FileBoard
from adaptsvc.versions.history import Desk as History
from adaptsvc.versions.pins import FilePins
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.store import VersionStore
from adaptsvc.versions.task_desk import TaskDesk
from adaptsvc.versions.tasks import FileTasks

LIMITS = ImageLimits(max_bytes=20_000, max_pixels=1_000_000, max_side=4_000)
RAW = {"content-type": "image/png"}
PATIENCE_S = 20.0
ENGINE = EngineLimits(decoders=1, inferences=1, queue_images=64, batch=BatchLimits(8, 0.0))


class Tally(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.shed_for: list[str] = []
        self.stages: dict[str, float] = {}
        self.batches: list[int] = []
        self.spared_images = 0
        self.alive: list[bool] = []
        self.fallback: list[bool] = []

    def shed(self, reason: str) -> None:
        """See `Observer`."""
        self.shed_for.append(reason)

    def stage(self, stage: str, seconds: float) -> None:
        """See `Observer`."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    def batched(self, images: int) -> None:
        """See `Observer`."""
        self.batches.append(images)

    def spared(self, images: int) -> None:
        """See `Observer`."""
        self.spared_images += images

    def inference_alive(self, alive: bool) -> None:
        """See `Observer`."""
        self.alive.append(alive)

    def fell_back(self, fell_back: bool) -> None:
        """See `Observer`."""
        self.fallback.append(fell_back)


@dataclass
class Stand:
    """Everything behind the HTTP interface of one process."""

    settings: Settings
    observer: Tally = field(default_factory=Tally)
    limits: EngineLimits = ENGINE
    decode: Callable[..., Any] = lambda data, preprocess: decode(data, preprocess, LIMITS)
    deadline_s: float = PATIENCE_S
    gate: GateLimits = field(default_factory=lambda: GateLimits(256, PATIENCE_S, 2 * PATIENCE_S))
    leaving: Callable[[], bool] = lambda: False
    sample: Callable[[str, bytes], None] = lambda _image_id, _data: None
    max_images: int = 4
    problem: str = ""
    tracer: Tracer = OFF

    def __post_init__(self) -> None:
        self.store = VersionStore(self.settings.store)
        self.pointer = FilePointer(self.settings.pointer)
        self.live = Live(self.store, self.pointer, Runtime(), observer=self.observer)
        self.engine = Engine(
            lambda: self.live.current,
            lambda data, preprocess: self.decode(data, preprocess),
            self.limits,
            observer=self.observer,
        )

    def app(self, door: Door | None = None) -> FastAPI:
        """The application; the engine has to be started."""
        limits = RequestLimits(LIMITS.max_bytes, self.max_images, 200_000)
        desk = Desk(self.engine, self.deadline_s, observer=self.observer)
        classifier = Classifier(self.observer, sample=self.sample)
        app = create_app(self.live, desk=desk, classifier=classifier, limits=limits)
        history = History(self.store, self.pointer, FilePins(self.settings.pins))
        add_versions(app, history, door or Door())
        tasks = TaskDesk(self.store, self.pointer, FileTasks(self.settings.tasks))
        add_classes(app, self.live, tasks, door or Door())
        add_drift(app, self.live, DriftDesk(FileBoard(self.settings.board), 11.0, self.observer))
        add_tensors(app, self.live, desk, limits, lambda: self.problem)
        app.add_middleware(Gate, limits=self.gate, observer=self.observer, leaving=self.leaving)
        if self.tracer.on:
            app.add_middleware(Traced, tracer=self.tracer)
        return app

    @contextmanager
    def client(self, *, poll: bool = True) -> Iterator[TestClient]:
        """Serving, with the version the pointer names."""
        if poll:
            self.live.poll()
        self.engine.start()
        try:
            with TestClient(self.app()) as client:
                yield client
        finally:
            self.engine.close(timeout_s=1)

    def use(self, session: Any) -> None:
        """Have the serving version run on another session."""
        assert self.live.current is not None
        encoder = Encoder(self.live.current.base, session, feeds={}, keep=())
        self.live.current = Predictor(encoder, self.live.current.version)


class Held:
    """A session that does not come back before it is let go; then it answers as the real one."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.entered, self.release = threading.Event(), threading.Event()
        self.calls = 0

    def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
        """As ONNX Runtime's, later."""
        self.calls += 1
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        return self._session.run(names, feeds)


class Broken:
    """A session that fails."""

    def run(self, _names: list[str], _feeds: dict[str, Any]) -> Any:
        """As ONNX Runtime's, never."""
        raise RuntimeError("out of memory")


class NotANumber:
    """A session that answers NaN."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
        """As ONNX Runtime's, all NaN."""
        return [np.full_like(found, np.nan) for found in self._session.run(names, feeds)]


def session_of(stand: Stand) -> Any:
    """The session that serves."""
    assert stand.live.current is not None
    return stand.live.current.encoder.session
