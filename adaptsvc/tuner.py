"""One tuning round: labeled images to a candidate, with the objective the settings name.

It knows nothing of streams, of which version serves, or of publishing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from adaptsvc.adapt.adversarial import EPSILON, Attack, perturb
from adaptsvc.adapt.augment import augment
from adaptsvc.adapt.labeled import LabeledObjective
from adaptsvc.adapt.labeled_objectives import labeled_objective
from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.tuning import Tuning, TuningSteps
from adaptsvc.clip.tower import Tower, numpy_of
from adaptsvc.learner import Candidate, Learner, batches
from adaptsvc.sections import TuneSettings
from adaptsvc.types import Float32
from adaptsvc.versions.store import Version


@dataclass(frozen=True, slots=True)
class Start:
    """What a tuning round starts from; the tower's weights are those it has.

    Attributes:
        text: (C, D), unit norm, the class embeddings of the prompt as the parent has it.
        zero_shot: (C, D), unit norm, those of the frozen zero-shot model.
        context: (M, W), the prompt context of the parent; no label changes it.
        logit_scale: s > 0.
    """

    text: Float32
    zero_shot: Float32
    context: Float32
    logit_scale: float


def start_from(version: Version, learner: Learner) -> Start:
    """Where a round on labels starts, once the learner has loaded the version."""
    return Start(
        text=learner.class_embeddings(),
        zero_shot=learner.zero_shot_embeddings,
        context=version.head.context,
        logit_scale=version.manifest.logit_scale,
    )


class Tuner:
    """Labeled rounds on a tower.

    Args:
        tower: what learns; its parameters are changed in place.
    """

    def __init__(self, tower: Tower) -> None:
        self._tower = tower

    def tune(
        self,
        start: Start,
        samples: Sequence[LabeledSample],
        settings: TuneSettings,
        *,
        seed: int,
        between_steps: Callable[[], None],
    ) -> Candidate:
        """One round from the tower's weights, its head starting as the class embeddings.

        Args:
            start: class embeddings, context and scale.
            samples: labeled images to learn from; at least 2.
            settings: of the round.
            seed: of every draw in it.
            between_steps: called before each step; what it raises ends the round.

        Raises:
            NonFiniteStepError: a step gave NaN or Inf.
            ModelError: the tower's last block is asked for and not known.
        """
        generator = Generator().manual_seed(seed)
        batch = min(settings.batch_images, len(samples))
        steps = max(1, math.ceil(settings.passes * len(samples) / batch))
        trained = self._tower.select(settings.trained)
        self._tower.train(trained)
        objective = self._objective(start, settings, generator)
        tuning = self._tuning(objective, trained, settings, steps)
        pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples]))  # (N, 3, H, W)
        targets = torch.tensor([sample.target for sample in samples])  # (N,)
        losses: dict[str, float] = {}
        for index in batches(len(samples), batch, steps, generator):
            between_steps()
            images = self._tower.scaled(augment(pixels[index], generator))
            chosen = targets[index].to(self._tower.device)
            images, chosen = self._attacked(images, chosen, objective, settings, generator)
            losses = tuning.step(self._tower.standardised(images), chosen, generator)
        return self._candidate(start, objective, settings, losses, steps * batch)

    def _objective(
        self, start: Start, settings: TuneSettings, generator: Generator
    ) -> LabeledObjective:
        text = torch.from_numpy(start.text).to(self._tower.device)
        objective = labeled_objective(settings.method)(text, start.logit_scale, generator=generator)
        return objective.to(self._tower.device).train()

    def _tuning(
        self,
        objective: LabeledObjective,
        trained: dict[str, torch.nn.Parameter],
        settings: TuneSettings,
        steps: int,
    ) -> Tuning:
        return Tuning(
            self._tower.module,
            objective,
            trained=trained,
            projection=self._tower.projection(trained),
            steps=TuningSteps(
                settings.learning_rate,
                settings.head_learning_rate,
                settings.momentum,
                settings.weight_decay,
                steps,
            ),
        )

    def _attacked(
        self,
        images: Tensor,
        targets: Tensor,
        objective: LabeledObjective,
        settings: TuneSettings,
        generator: Generator,
    ) -> tuple[Tensor, Tensor]:
        """The batch and, where adversarial training is on, the worst images near it."""
        if settings.adversarial == "none":
            return images, targets

        def loss(candidates: Tensor) -> Tensor:
            features = self._tower.module(self._tower.standardised(candidates))
            return torch.nn.functional.cross_entropy(objective.logits(features), targets)

        attack = Attack(settings.adversarial, EPSILON[settings.adversarial])
        worst = perturb(images, loss, attack, generator)
        return torch.cat([images, worst]), torch.cat([targets, targets])

    def _candidate(
        self,
        start: Start,
        objective: LabeledObjective,
        settings: TuneSettings,
        losses: dict[str, float],
        images: int,
    ) -> Candidate:
        share = settings.interpolation
        head = numpy_of(objective.served_head())
        if share < 1:
            self._tower.interpolate(share, self._tower.select(settings.trained))
            head = ((1 - share) * start.zero_shot + share * head).astype(np.float32)
        return Candidate(
            method=settings.method,
            delta=self._tower.norm_values(),
            tower=self._tower.changed(),
            context=start.context,
            class_embeddings=head.copy(),
            losses=losses,
            images=images,
            labels_used=True,
        )
