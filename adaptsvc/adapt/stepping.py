"""Stochastic gradient descent that undoes a step that is not finite; it knows nothing of losses or models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptsvc.adapt.distributed import SINGLE, Ranks
from adaptsvc.errors import NonFiniteStepError


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters by name, and the rate they start with, at least 0."""

    parameters: Mapping[str, nn.Parameter]
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Descent:
    """How the parameters move.

    Attributes:
        momentum: in [0, 1).
        total_steps: the length of the cosine, at least 1.
        nesterov: which momentum; it needs one above 0.
        weight_decay: at least 0.
    """

    momentum: float
    total_steps: int
    nesterov: bool = False
    weight_decay: float = 0.0


class Stepper:
    """SGD over groups of parameters, each with its own rate, all on one cosine.

    Args:
        groups: what is trained; no name twice.
        descent: how.
        ranks: the processes that step together, from equal weights; by default this one alone.
    """

    def __init__(self, *groups: Group, descent: Descent, ranks: Ranks = SINGLE) -> None:
        self.parameters = {name: p for group in groups for name, p in group.parameters.items()}
        self.steps = 0
        self._total_steps = descent.total_steps
        self._rates = [group.learning_rate for group in groups]
        self._ranks = ranks
        self._optimizer = torch.optim.SGD(
            [{"params": list(group.parameters.values())} for group in groups],
            lr=0.0,
            momentum=descent.momentum,
            nesterov=descent.nesterov and descent.momentum > 0,
            weight_decay=descent.weight_decay,
        )

    def step(self, loss: Tensor, *, backward: bool = True) -> None:
        """One step down a loss, the same on every rank.

        Args:
            loss: scalar.
            backward: whether this rank has a gradient of it; without images of its own it has none.

        Raises:
            NonFiniteStepError: loss, gradient or new weight is NaN or Inf on a rank; the weights are as
                before on all.
            RanksError: another rank is gone.
        """
        before = self.snapshot()
        cosine = cosine_decay(self.steps, self._total_steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * cosine
        self._optimizer.zero_grad(set_to_none=True)
        if backward:
            loss.backward()
        self._ranks.sum_gradients(self.parameters.values())
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self._refuse_unless_finite([loss.detach(), *gradients], before, "gradient")
        self._optimizer.step()
        self._refuse_unless_finite(self.parameters.values(), before, "weight")
        self.steps += 1

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every trained parameter."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put a snapshot back and forget the optimizer's momentum."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(snapshot[name])
        self._optimizer.state.clear()

    def _refuse_unless_finite(
        self, tensors: Iterable[Tensor], before: Mapping[str, Tensor], what: str
    ) -> None:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        if self._ranks.agree(bool(torch.isfinite(flat).all())):
            return
        self.restore(before)
        raise NonFiniteStepError(
            f"step {self.steps + 1} gave a {what} that is NaN or Inf; the weights were restored: "
            "lower the learning rate"
        )


def cosine_decay(step: int, total_steps: int) -> float:
    """Factor from 1 at step 0 towards 0 at `total_steps`, at least 0.

    Example:
        >>> [round(cosine_decay(step, 4), 3) for step in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))
