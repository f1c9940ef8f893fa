"""Rounds on a prepared store with an intake that tests fill by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import Ready
from adaptsvc.config import Settings
from adaptsvc.intake import Intake
from adaptsvc.learner import Learner
from adaptsvc.metrics import Observer
from adaptsvc.publishing import Publisher
from adaptsvc.rounds import Parts, Round, Rounds
from adaptsvc.serving.encoder import Runtime
from adaptsvc.source import Source
from adaptsvc.types import Float32, UInt8
from adaptsvc.versions.store import Store
from streams.log import MemoryLog
from streams.topics import load_topics

Samples = tuple[Sample, ...]
COLOURS = ((230, 30, 30), (30, 200, 60), (40, 60, 240))
EVEN = np.full(3, 1 / 3, np.float32)
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
LENIENT = {
    "agreement": 0.0,
    "marginal_entropy_kept": 0.0,
    "class_kept": 0.0,
    "labels_min": 1000,
}
# No candidate keeps every answer and the marginal entropy while it minimises its entropy like this.
STRICT = {**LENIENT, "agreement": 1.0, "confident_share": 1.0, "marginal_entropy_kept": 1.0}
COLLAPSE = {"objective": "entropy-minimisation", "learning_rate": 0.5, "passes": 4.0}
TUNE = {"labels_min": 6, "passes": 2.0, "batch_images": 6}
STILL = {"learning_rate": 0.0, "context_learning_rate": 0.0}


class Counter(Observer):
    def __init__(self) -> None:
        self.returns = 0

    def went_back(self) -> None:
        self.returns += 1


class Bench:
    """Rounds on a prepared store, and an intake that tests fill by hand."""

    def __init__(self, ready: Ready, settings: Settings) -> None:
        self.ready, self.settings, self.observer = ready, settings, Counter()
        self.learner = Learner(ready.clip, ready.prompt, ready.encoder)
        source = Source(MemoryLog(load_topics()), ready.clip.preprocess, self.zero_shot)
        self.intake = Intake(source, settings, self.observer)
        self.rounds = self.start()

    def zero_shot(self, pixels: UInt8) -> tuple[Float32, Float32, Float32]:
        return self.learner.look(pixels, 1.0)

    def start(self, **sections: dict[str, Any]) -> Rounds:
        """Rounds with some settings changed, on the same store and learner."""
        settings = changed(self.settings, **sections)
        publisher = Publisher(self.ready.store, self.ready.pointer, Runtime(), settings)
        parts = Parts(self.ready.store, self.ready.pointer, self.learner, publisher, self.observer)
        self.rounds = Rounds(parts, settings, between_steps=lambda: None)
        return self.rounds

    def look(self, window: Samples) -> Round:
        """A round on images."""
        for sample in window:
            self.intake.window.add(sample)
        return self.rounds.run("images", self.intake)

    def teach(self, samples: tuple[LabeledSample, ...]) -> Round:
        """A round on labels."""
        for sample in samples:
            self.intake.labels.add(sample)
        return self.rounds.run("labels", self.intake)

    @property
    def serving(self) -> int | None:
        return self.ready.pointer.read().version


def changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    update = {
        name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()
    }
    return settings.model_copy(update=update)


def coloured(count: int = 16) -> tuple[LabeledSample, ...]:
    """Pictures of one colour per class; five of the first sixteen are held out."""
    pixels = [
        np.full((32, 32, 3), COLOURS[k % 3], np.uint8).transpose(2, 0, 1) for k in range(count)
    ]
    return tuple(
        LabeledSample(
            f"taught-{k}", image - np.uint8(k % 16), k % 3, ("images.labeled", 0, k), EVEN
        )
        for k, image in enumerate(pixels)
    )


def bases(store: Store) -> set[str]:
    return {path.name for path in (store.root / "base").iterdir()}
