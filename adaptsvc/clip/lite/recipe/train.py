"""Distillation: batches of names under templates, one optimizer, one epoch at a time.

Knows the student and a table of target vectors, and nothing of where targets come from or where weights go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from .student import Phrases, encode

BATCH = 512
# Batches are cut from a pool grouped by template and sorted by length: little padding, still mixed.
POOL = 64 * BATCH
CLIP_NORM = 1.0
SHARPNESS = 15.0
ANGLE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is taught: phrases, one target per name whatever the template, and times met per epoch."""

    phrases: Phrases
    targets: Tensor  # (M, D) unit
    rows: Tensor  # (K, D) unit, what images are told apart by
    repeats: NDArray[np.int64]  # (M,) times per epoch
    template_odds: NDArray[np.float64]  # (T,) sums to one


@dataclass(frozen=True, slots=True)
class Schedule:
    """One cycle of AdamW: a linear rise, then a cosine down to zero."""

    epochs: int
    peak: float = 1.5e-3
    weight_decay: float = 0.01
    warmup: float = 0.08
    ranking: bool = False

    def rate(self, progress: float) -> float:
        """Give the learning rate at a share of the whole run, 0 to 1."""
        if progress < self.warmup:
            return self.peak * progress / self.warmup
        return (
            self.peak * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2
        )

    def loss(self, texts: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Give the loss of one batch: the angle, or chiefly the ranking of the classifier rows."""
        angle = 1 - (texts * targets).sum(1).mean()
        return ANGLE_SHARE * angle + ranking_loss(texts, targets, rows) if self.ranking else angle


def ranking_loss(texts: Tensor, targets: Tensor, rows: Tensor) -> Tensor:  # (N, D), (N, D), (K, D)
    """KL(softmax(s T R') || softmax(s Z R')), s = SHARPNESS, in nats, mean over the batch.

    The text tower is narrower than the joint space, so its outputs fill a subspace only. This loss spends it
    on what tells neighbouring classes apart.
    """
    wanted = log_softmax(SHARPNESS * targets @ rows.T, dim=1)
    given = log_softmax(SHARPNESS * texts @ rows.T, dim=1)
    return kl_div(given, wanted, log_target=True, reduction="batchmean")


class Trainer:
    """Takes the student through the lesson; `epoch()` returns the mean loss."""

    def __init__(self, model: CLIP, lesson: Lesson, schedule: Schedule, *, seed: int) -> None:
        self.model = model
        self.lesson = lesson
        self.schedule = schedule
        self.rng = np.random.default_rng(seed)
        self.seen = 0
        self.optimizer = torch.optim.AdamW(_groups(model, schedule), fused=True, betas=(0.9, 0.98))

    def epoch(self) -> float:
        """Meet every name as often as the lesson says, once through."""
        losses = [self.step(*batch) for batch in batches(self.lesson, self.rng)]
        return float(np.mean(losses))

    def step(self, opening: Tensor, rest: Tensor, targets: Tensor) -> float:  # (P,), (N, L), (N, D)
        """Descend once on 1 - cosine."""
        self.seen += len(targets)
        progress = self.seen / (self.schedule.epochs * int(self.lesson.repeats.sum()))
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(progress)
        texts = encode(self.model, opening, rest)
        loss = self.schedule.loss(texts, targets, self.lesson.rows)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(text_parameters(self.model), CLIP_NORM)
        self.optimizer.step()
        return float(loss.detach())


def batches(lesson: Lesson, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (opening, rest, targets) of one epoch in random order, one template a batch."""
    names = rng.permutation(np.repeat(np.arange(len(lesson.repeats)), lesson.repeats))
    templates = rng.choice(len(lesson.template_odds), size=len(names), p=lesson.template_odds)
    lengths = np.array([len(tokens) for tokens in lesson.phrases.names])
    for start in range(0, len(names), POOL):
        pool, drawn = names[start : start + POOL], templates[start : start + POOL]
        cuts = [
            (cut, t) for t in np.unique(drawn).tolist() for cut in _cut(pool[drawn == t], lengths)
        ]
        for index in rng.permutation(len(cuts)).tolist():
            chosen, template = cuts[index]
            yield *lesson.phrases.join(chosen.tolist(), template), lesson.targets[chosen]


def _cut(names: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut names of like length into batches of like size."""
    ordered = names[np.argsort(lengths[names], kind="stable")]
    return np.array_split(ordered, -(-len(ordered) // BATCH))


def text_parameters(model: CLIP) -> list[nn.Parameter]:
    """List what is trained: everything but the image tower and the logit scale."""
    return [
        p
        for name, p in model.named_parameters()
        if not name.startswith("visual.") and name != "logit_scale"
    ]


def _groups(model: CLIP, schedule: Schedule) -> list[dict[str, object]]:
    """Decay matrices only."""
    parameters = text_parameters(model)
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
