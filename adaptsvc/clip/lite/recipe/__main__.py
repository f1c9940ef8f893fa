"""Make the bundled CLIP: reads two packages and WordNet, writes the model directory.

The only module of the recipe that knows the command line and which file is whose.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from torch import Tensor

from . import evaluate, package, teacher
from .lesson import IMAGENET_NAMES, PROMPT, TEMPLATES, Syllabus, plan
from .nouns import read_nouns
from .sentences import embed
from .student import start_embedding, token_strings, tokenize
from .tower import Tower, read_tower
from .train import Lesson, Schedule, Trainer

# The second time round nothing is held out: names the product may be asked for are worth more than a figure.
LAST_PEAK = 5e-4

log = logging.getLogger("adaptsvc.clip.lite.recipe")


@dataclass(frozen=True, slots=True)
class Exam:
    """What an epoch is judged by; no image is needed for the nouns."""

    syllabus: Syllabus
    lesson: Lesson
    images: Tensor | None  # (1000, D) unit, image i shows class i

    def mark(self, model: CLIP) -> evaluate.Score:
        """Score the student on held-out nouns and, given features, on held-out classes."""
        nouns = torch.from_numpy(self.syllabus.held_out_nouns)
        vectors = evaluate.text_vectors(model, self.lesson.phrases, nouns)
        cosine = float((vectors * self.lesson.targets[nouns]).sum(1).mean())
        texts = evaluate.text_vectors(model, self.lesson.phrases, torch.arange(len(IMAGENET_NAMES)))
        return evaluate.Score(cosine, *self.accuracies(texts))

    def accuracies(self, texts: Tensor) -> tuple[float, float]:  # (1000, D) unit
        """Accuracy on the held-out classes and on all, among all names."""
        if self.images is None:
            return float("nan"), float("nan")
        held_out = torch.from_numpy(self.syllabus.held_out_classes)
        everything = torch.arange(len(texts))
        return evaluate.accuracy(self.images, texts, held_out), evaluate.accuracy(
            self.images, texts, everything
        )


def main() -> int:
    """Make the model directory; 0 when done."""
    options = parse_options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.cache.mkdir(parents=True, exist_ok=True)
    tower = read_tower()
    syllabus = plan(read_nouns(options.wordnet), seed=options.seed)
    lesson = make_lesson(syllabus, tower, options.cache)
    model = package.build(options.out, tower)
    start_embedding(model, cached(options.cache / "tokens.npy", token_strings))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(options.logit_scale))
    exam = Exam(syllabus, lesson, read_images(options.features, tower))
    names = lesson.targets[: len(IMAGENET_NAMES)]
    log.info("teacher: held-out classes %.3f, all %.3f", *exam.accuracies(names))
    teach(model, exam, Schedule(options.epochs), options)
    whole = replace(lesson, repeats=syllabus.times)
    teach(
        model,
        replace(exam, lesson=whole),
        Schedule(options.last_epochs, LAST_PEAK, ranking=True),
        options,
    )
    return 0


def teach(model: CLIP, exam: Exam, schedule: Schedule, options: argparse.Namespace) -> None:
    """Train; after each epoch mark the student and replace the weights on disk."""
    trainer = Trainer(model, exam.lesson, schedule, seed=options.seed)
    for epoch in range(schedule.epochs):
        began = time.monotonic()
        model.train()
        loss = trainer.epoch()
        score = exam.mark(model)
        size = package.write_weights(options.out, model)
        seconds = time.monotonic() - began
        log.info("epoch %d loss %.4f %s %d bytes %.0f s", epoch, loss, score, size, seconds)


def make_lesson(syllabus: Syllabus, tower: Tower, cache: Path) -> Lesson:
    """Ask the teacher for every name, once."""
    sentences = cached(cache / "names.npy", lambda: [PROMPT.format(n) for n in syllabus.names])
    oracle = teacher.fit(sentences[: len(IMAGENET_NAMES)], tower.rows)
    odds = np.array(list(TEMPLATES.values()))
    phrases = tokenize(syllabus.names, list(TEMPLATES))
    return Lesson(phrases, oracle(sentences), tower.rows, syllabus.taught, odds / odds.sum())


def cached(path: Path, sentences: Callable[[], list[str]]) -> Tensor:  # (N, E) unit
    """Embed sentences, or read what an earlier run embedded."""
    if not path.exists():
        np.save(path, embed(sentences()).numpy())
    return torch.from_numpy(np.load(path)).float()


def read_images(path: Path | None, tower: Tower) -> Tensor | None:  # (1000, D) unit
    """Read pooled features, one image per ImageNet class in order, and project them."""
    if path is None:
        return None
    return evaluate.project(torch.from_numpy(np.load(path)).float(), tower.projection, tower.bias)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m adaptsvc.clip.lite.recipe", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="model directory to write")
    parser.add_argument(
        "--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        required=True,
        help="folder for sentence embeddings, kept between runs",
    )
    parser.add_argument(
        "--features",
        type=Path,
        help=".npy (1000, 1280): pooled features to mark held-out classes by",
    )
    parser.add_argument("--epochs", type=int, default=10, help="with names held out")
    parser.add_argument("--last-epochs", type=int, default=4, help="with nothing held out")
    parser.add_argument("--logit-scale", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
