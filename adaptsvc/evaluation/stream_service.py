"""A service under test: the real worker on a stream in memory, with a store and a pointer of its own.

It knows nothing of kinds of streams or of figures. The base model is the bench's, linked, not copied.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from adaptsvc.config import Settings
from adaptsvc.evaluation.bench import Bench
from adaptsvc.evaluation.data import prompt_name
from adaptsvc.evaluation.stream_kinds import Noise, Picture, Sending, noise_png
from adaptsvc.metrics import MessageOutcome, Observer
from adaptsvc.publishing import Publisher, zero_shot_draft
from adaptsvc.rounds import Round
from adaptsvc.serving.encoder import Encoder
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.source import LABEL_HEADER
from adaptsvc.streaming import IMAGES, LABELS
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.store import Version, VersionStore
from adaptsvc.worker import Worker
from adaptsvc.worker_parts import Parts
from streams.log import MemoryLog
from streams.message import NewMessage
from streams.topics import load_topics

AT_ONCE = 16  # a log of several partitions keeps no order among what waits together


class _Returns(Observer):
    def __init__(self) -> None:
        self.returns = 0
        self.dead_letters = 0

    def went_back(self) -> None:
        self.returns += 1

    def received(self, topic: str, outcome: MessageOutcome, messages: int) -> None:
        if outcome == "dead_letter":
            self.dead_letters += messages


class Service:
    """A service that starts from zero-shot in an empty home.

    Args:
        bench: the loaded model; its learner is the service's for now.
        settings: of the service; their home is empty.
        stop: ends the round at hand.
    """

    def __init__(self, bench: Bench, settings: Settings, stop: threading.Event) -> None:
        self._bench = bench
        self._side = bench.ready.clip.preprocess.size
        self._store = _store(bench, settings)
        self._pointer = FilePointer(settings.pointer)
        self._observer = _Returns()
        # Nobody else wants the membership, so however long a measurement takes it is not lost.
        self._log = MemoryLog(load_topics(), now=lambda: 0.0)
        self._pointer.compare_and_set(None, _publish_zero_shot(bench, self._store, settings))
        bench.learner.load(self.serving())
        self._worker = self._start(settings, stop)

    @property
    def returns(self) -> int:
        """How often an earlier version was made to serve."""
        return self._observer.returns

    @property
    def dead_letters(self) -> int:
        """Messages it could not use."""
        return self._observer.dead_letters

    def receive(self, sendings: Sequence[Sending]) -> Iterator[tuple[int, Round | None]]:
        """Send images, then their labels, and let the worker work.

        Yields:
            After each of its turns: images sent so far, and its round, if there was one.
        """
        for start in range(0, len(sendings), AT_ONCE):
            some = sendings[start : start + AT_ONCE]
            images = [NewMessage(s.key, _encoded(s.picture, self._side)) for s in some]
            labels = [
                NewMessage(s.key, image.value, {LABEL_HEADER: prompt_name(s.label).encode()})
                for s, image in zip(some, images, strict=True)
                if s.label
            ]
            for topic, messages in ((IMAGES, images), (LABELS, labels)):
                for done in self._work_off(topic, messages):
                    yield start + len(some), done

    def serving(self) -> Version:
        """The version that serves."""
        current = self._pointer.read().version
        assert current is not None  # zero-shot was published before the first message
        return self._store.load(current)

    def encoder(self, version: Version) -> Encoder:
        """A version's image tower as the service runs it."""
        base = self._store.base(version.manifest.base)
        before = self._bench.ready.encoder
        return build_encoder(base, version.delta, self._bench.runtime, before=before)

    def _start(self, settings: Settings, stop: threading.Event) -> Worker:
        bench = self._bench
        parts = Parts(
            log=self._log,
            store=self._store,
            pointer=self._pointer,
            learner=bench.learner,
            publisher=Publisher(self._store, self._pointer, bench.runtime, settings),
            preprocess=bench.ready.clip.preprocess,
            observer=self._observer,
        )
        worker = Worker(parts, settings, stop)
        worker.restore()
        return worker

    def _work_off(self, topic: str, messages: Sequence[NewMessage]) -> Iterator[Round | None]:
        """Of one topic at a time, so a turn makes one kind of round due at most, and runs it."""
        self._log.append(topic, messages)
        waiting = len(messages)
        while waiting > 0:
            tick = self._worker.run_once(time.time())
            waiting -= tick.received
            yield tick.round


def _store(bench: Bench, settings: Settings) -> VersionStore:
    store, base = VersionStore(settings.store), bench.ready.encoder.base
    (store.root / "base" / base.digest).symlink_to(base.directory.absolute())
    return store


def _publish_zero_shot(bench: Bench, store: VersionStore, settings: Settings) -> int:
    head = bench.start.head
    draft, content = zero_shot_draft(
        bench.ready.clip, bench.ready.encoder, settings, (head.class_embeddings, head.context)
    )
    return store.publish(draft, {}, content).id


def _encoded(picture: Picture, side: int) -> bytes:
    return noise_png(picture, side) if isinstance(picture, Noise) else picture.file.read_bytes()
