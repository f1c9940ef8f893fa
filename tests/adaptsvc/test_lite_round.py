"""Claims about the bundled model going once round the loop: zero-shot, a round, a version, an answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import prepare
from adaptsvc.config import Settings
from adaptsvc.evidence import RoundContext
from adaptsvc.images import ImageLimits, decode
from adaptsvc.learner import Learner
from adaptsvc.publishing import Publisher
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import build

LEARN = {"batch_images": 8, "passes": 1.0}


@pytest.mark.slow
def test_lite_learns_publishes_and_answers_as_torch_does(
    tmp_path: Path, png: Callable[[int], bytes]
) -> None:
    settings = Settings(home=tmp_path, classes=("cat", "dog", "car"), learn=LEARN)
    ready = prepare(settings)
    base = ready.encoder.base
    assert base.swap == "session"
    learner = Learner(ready.clip, ready.prompt, ready.encoder)
    pixels = np.stack([decode(png(seed), base.preprocess, ImageLimits()) for seed in range(8)])
    probabilities, weights = learner.zero_shot(pixels, 1.0)
    samples = [
        Sample(str(i), pixels[i], probabilities[i], float(weights[i]), ("t", 0, i))
        for i in range(8)
    ]
    parent = ready.store.load(0)
    learner.load(parent)
    candidate = learner.learn(samples, settings.learn, 0, between_steps=lambda: None)
    publisher = Publisher(ready.store, ready.pointer, Runtime(), settings)
    decision = publisher.decide(learner, candidate, RoundContext(parent, samples, (), {}, 0))
    assert decision.outcome == "promoted", decision.reasons
    predictor = build(base, ready.store.load(decision.version), Runtime())
    predictor.self_test()
    shipped = ready.store.root / "versions" / "000001"
    size_bytes = sum(file.stat().st_size for file in shipped.iterdir())
    assert size_bytes < 400_000, "a version is a delta: the base has 14 MB"
