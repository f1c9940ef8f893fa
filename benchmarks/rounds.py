"""What a UEO round costs beside the training it is made of: `python -m benchmarks.rounds`.

Images per second of `Learner.learn` against a bare loop over the same tower, batches and augmentation:
forward, UEO's loss against fixed class embeddings, backward, SGD. One after the other in each run, so that a
busy machine slows both. On a GPU (`--device cuda`) the loop's pixels are there already; a round brings them.
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
from adaptsvc.learner import Learner, autocast, batches
from benchmarks.figures import Figure, at_least, publish, ratios
from benchmarks.pictures import pictures
from benchmarks.stage import random_clip

RUNS, DIFFERENT = 5, 128
CLASSES = ("cat", "dog", "bird", "horse", "car", "person")


def samples_of(ready: Ready, learner: Learner, count: int) -> list[Sample]:
    """Noise-like pictures: the time of a step does not depend on what they show."""
    data = pictures(None, min(count, DIFFERENT))
    images = [decode(each, ready.clip.preprocess, ImageLimits()) for each in data]
    pixels = np.stack([images[k % len(images)] for k in range(count)])
    probabilities, weights = learner.zero_shot(pixels, 1.0)
    return [
        Sample(str(k), pixels[k], probabilities[k], float(weights[k]), ("benchmark", 0, k))
        for k in range(count)
    ]


def bare(learner: Learner, samples: Sequence[Sample], settings: Settings) -> float:
    """Images per second of the loop with nothing around it."""
    tower, generator = learner.tower, Generator().manual_seed(0)
    tower.train(tower.norms)
    classes = torch.from_numpy(learner.zero_shot_embeddings).to(tower.device)
    encode = autocast(tower.module, settings.learn.autocast, tower.device)
    optimizer = torch.optim.SGD(tower.norms.values(), lr=1e-4, momentum=0.9)
    pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples])).to(tower.device)
    weights = torch.tensor([sample.weight for sample in samples], device=tower.device)
    loss_of = objective(settings.learn.objective)
    count, batch = len(samples), settings.learn.batch_images
    started = time.perf_counter()
    for index in batches(count, batch, count // batch, generator):
        images = tower.standardised(tower.scaled(augment(pixels[index], generator)))
        logits = learner.clip.logit_scale * encode(images) @ classes.T
        optimizer.zero_grad(set_to_none=True)
        loss_of(logits, weights[index]).total.backward()
        optimizer.step()
    if tower.device.type == "cuda":
        torch.cuda.synchronize()
    return count // batch * batch / (time.perf_counter() - started)


def ours(learner: Learner, samples: Sequence[Sample], settings: Settings) -> float:
    """Images per second of a round."""
    started = time.perf_counter()
    candidate = learner.learn(samples, settings.learn, 0, between_steps=lambda: None)
    return candidate.images / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument(
        "--model", choices=("lite", "vit"), default="lite", help="vit: ViT-B-32, random"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--autocast", choices=("off", "bfloat16"), default="off")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        learn = {"batch_images": options.batch, "passes": 1.0, "learning_rate": 1e-4}
        learn |= {"device": options.device, "autocast": options.autocast}
        model = "lite" if options.model == "lite" else random_clip(Path(home) / "model", "vit")
        settings = config.read(home=Path(home), model=model, classes=CLASSES, learn=learn)
        ready = prepare(settings)
        learner = Learner(ready.clip, ready.prompt, ready.encoder)
        samples = samples_of(ready, learner, options.images)
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
    what = f"{options.model} on {options.device}, autocast {options.autocast}"
    publish(
        f"rounds: {what}, {options.images} images, batch {options.batch}", figures, options.json
    )


if __name__ == "__main__":
    main()
