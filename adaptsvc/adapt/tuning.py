"""One tuning: labeled batches into a tower and an objective, one step at a time, undone when it goes wrong.

It knows nothing of CLIP, streams or files: it is given a module that makes embeddings and the parameters of
it that are trained. The module stays in eval mode, so BatchNorm's running statistics do not move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from adaptsvc.adapt.carot import ema_momentum
from adaptsvc.adapt.labeled import LabeledBatch, LabeledObjective
from adaptsvc.adapt.stepping import Descent, Group, Stepper
from adaptsvc.errors import NonFiniteStepError

TEACHER_MOVES = 50  # in a round; at every step of a shorter one


@dataclass(frozen=True, slots=True)
class TuningSteps:
    """How a tuning round steps.

    Attributes:
        learning_rate: of the tower, at the start of the cosine.
        head_learning_rate: of the class head and what else the objective trains, likewise.
        momentum: of Nesterov's SGD, in [0, 1).
        weight_decay: of every trained parameter.
        total_steps: the length of the cosine, at least 1.
    """

    learning_rate: float
    head_learning_rate: float
    momentum: float
    weight_decay: float
    total_steps: int


class Tuning:
    """Steps a labeled objective over the trained parameters of a module.

    Args:
        module: (N, 3, H, W) standardised float -> (N, D) unit embeddings, differentiable.
        trained: parameters of it, by their names in it.
        objective: the loss, and the head it trains.
        projection: gives the module's linear map to the embeddings, (D_in, D), if it is trained.
        steps: rates and length.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: LabeledObjective,
        *,
        trained: Mapping[str, nn.Parameter],
        projection: Callable[[], Tensor] | None,
        steps: TuningSteps,
    ) -> None:
        self._module = module
        self._objective = objective
        self._trained = dict(trained)
        self._projection = projection
        self._total_steps = steps.total_steps
        self._teacher_every = max(1, steps.total_steps // TEACHER_MOVES)
        self._teacher = {name: p.detach().clone() for name, p in self._trained.items()}
        self._stepper = Stepper(
            Group(self._trained, steps.learning_rate),
            Group(
                {f"objective.{name}": p for name, p in objective.named_parameters()},
                steps.head_learning_rate,
            ),
            descent=Descent(
                steps.momentum, steps.total_steps, nesterov=True, weight_decay=steps.weight_decay
            ),
        )

    def step(self, images: Tensor, targets: Tensor, generator: Generator) -> dict[str, float]:
        """One optimizer step on a batch.

        Args:
            images: (N, 3, H, W) standardised.
            targets: (N,) class indices.
            generator: the only source of randomness.

        Returns:
            The loss (`loss`) and its named parts.

        Raises:
            NonFiniteStepError: loss, gradient or new weight is NaN or Inf; the weights are as before.
        """
        with torch.enable_grad():
            features = self._module(images)
            if not bool(features.detach().norm(dim=1).gt(0).all()):  # also true for NaN
                raise NonFiniteStepError(
                    f"step {self._stepper.steps + 1} met embeddings without length or NaN; the weights are "
                    "as before it: lower the learning rate"
                )
            batch = LabeledBatch(
                features=features,
                targets=targets,
                generator=generator,
                teacher_features=self._teacher_features(images),
                projection=None if self._projection is None else self._projection(),
            )
            loss = self._objective(batch)
        self._stepper.step(loss.total)
        self._move_teacher()
        return {"loss": loss.total.item(), **{k: v.item() for k, v in loss.parts.items()}}

    def _teacher_features(self, images: Tensor) -> Tensor | None:
        if not self._objective.needs_teacher:
            return None
        with torch.no_grad():
            features: Tensor = functional_call(self._module, self._teacher, (images,))
            return features

    def _move_teacher(self) -> None:
        """θ' ← m θ' + (1 - m) θ, every few steps, for objectives that ask for a teacher."""
        if not self._objective.needs_teacher or self._stepper.steps % self._teacher_every:
            return
        momentum = ema_momentum(self._stepper.steps, self._total_steps)
        with torch.no_grad():
            for name, parameter in self._trained.items():
                self._teacher[name].lerp_(parameter, 1 - momentum)
        self._objective.update_teacher(momentum)
