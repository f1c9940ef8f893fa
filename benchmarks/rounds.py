"""What a UEO round costs beside the training it is made of: `python -m benchmarks.rounds`.

Images per second of `Learner.learn` against a bare loop over the same tower, batches and augmentation:
forward, UEO's loss against fixed class embeddings, backward, SGD. One after the other in each run, so that a
busy machine slows both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator

from adaptsvc import config
from adaptsvc.adapt.augment import augment
from adaptsvc.adapt.objective import objective
from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import Ready, prepare
from adaptsvc.config import Settings
from adaptsvc.images import ImageLimits, decode
from adaptsvc.learner import Learner, batches
from benchmarks.figures import Figure, at_least, publish, ratios
from benchmarks.pictures import pictures

IMAGES, BATCH, RUNS = 128, 32, 5
CLASSES = ("cat", "dog", "bird", "horse", "car", "person")


def samples_of(ready: Ready, learner: Learner) -> list[Sample]:
    """Noise-like pictures: the time of a step does not depend on what they show."""
    images = [decode(data, ready.clip.preprocess, ImageLimits()) for data in pictures(None, IMAGES)]
    pixels = np.stack(images)
    probabilities, weights = learner.zero_shot(pixels, 1.0)
    return [
        Sample(str(k), pixels[k], probabilities[k], float(weights[k]), ("benchmark", 0, k))
        for k in range(IMAGES)
    ]


def bare(learner: Learner, samples: Sequence[Sample], settings: Settings) -> float:
    """Images per second of the loop with nothing around it."""
    tower, generator = learner.tower, Generator().manual_seed(0)
    tower.train(tower.norms)
    classes = torch.from_numpy(learner.zero_shot_embeddings)
    optimizer = torch.optim.SGD(tower.norms.values(), lr=1e-4, momentum=0.9)
    pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples]))
    weights = torch.tensor([sample.weight for sample in samples])
    loss_of = objective(settings.learn.objective)
    started = time.perf_counter()
    for index in batches(IMAGES, BATCH, IMAGES // BATCH, generator):
        images = tower.standardised(tower.scaled(augment(pixels[index], generator)))
        logits = learner.clip.logit_scale * tower.module(images) @ classes.T
        optimizer.zero_grad(set_to_none=True)
        loss_of(logits, weights[index]).total.backward()
        optimizer.step()
    return IMAGES / (time.perf_counter() - started)


def ours(learner: Learner, samples: Sequence[Sample], settings: Settings) -> float:
    """Images per second of a round."""
    started = time.perf_counter()
    candidate = learner.learn(samples, settings.learn, 0, between_steps=lambda: None)
    return candidate.images / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        learn = {"batch_images": BATCH, "passes": 1.0, "learning_rate": 1e-4}
        settings = config.read(home=Path(home), classes=CLASSES, learn=learn)
        ready = prepare(settings)
        learner = Learner(ready.clip, ready.prompt, ready.encoder)
        samples = samples_of(ready, learner)
        ours(learner, samples, settings)  # the first of everything is slower
        pairs = [
            (ours(learner, samples, settings), bare(learner, samples, settings))
            for _ in range(options.runs)
        ]
    mine, theirs = zip(*pairs, strict=True)
    figures = [
        Figure("UEO round", mine, "images/s"),
        Figure("bare loop", theirs, "images/s"),
        Figure("round / bare loop", ratios(mine, theirs), "x", at_least(0.9)),
    ]
    publish(f"rounds: lite, {IMAGES} images, batch {BATCH}", figures, options.json)


if __name__ == "__main__":
    main()
