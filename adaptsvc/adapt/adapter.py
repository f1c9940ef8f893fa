"""One learner: what is trained, one step at a time, undone when it goes wrong.

It knows nothing of CLIP, streams or files: it is given an image encoder and a function that makes class
embeddings. The model stays in eval mode, so BatchNorm's running statistics do not move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from adaptsvc.adapt.objective import Objective
from adaptsvc.errors import NonFiniteStepError, ObjectiveError

NORMALIZATIONS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def norm_parameters(module: nn.Module, prefix: str = "") -> dict[str, nn.Parameter]:
    """Weight and bias of every normalization layer, by qualified name.

    Args:
        module: where to look.
        prefix: put before each name, without the dot.

    Raises:
        ObjectiveError: there is none; there would be nothing to train.
    """
    found = {
        ".".join(part for part in (prefix, path, name) if part): parameter
        for path, layer in module.named_modules()
        if isinstance(layer, NORMALIZATIONS)
        for name, parameter in layer.named_parameters(recurse=False)
    }
    if not found:
        raise ObjectiveError(
            f"{type(module).__name__} has no normalization layer with weights; "
            "expected LayerNorm, BatchNorm, GroupNorm or RMSNorm: choose another model"
        )
    return found


@dataclass(frozen=True, slots=True)
class StepSettings:
    """How a round steps.

    Attributes:
        learning_rate: of the norm parameters, at the start of the cosine.
        context_learning_rate: of the prompt context, likewise.
        momentum: of SGD, in [0, 1).
        total_steps: the length of the cosine, at least 1.
    """

    learning_rate: float
    context_learning_rate: float
    momentum: float
    total_steps: int


class Adapter:
    """Steps an objective over a fixed set of parameters.

    Args:
        encode: (N, 3, H, W) float -> (N, D) unit embeddings, differentiable.
        class_embeddings: () -> (C, D) unit embeddings, differentiable in the context.
        norms: parameters trained at `learning_rate`, by name.
        context: parameters trained at `context_learning_rate`, by name; may be empty.
        logit_scale: s > 0.
        objective: the loss.
        settings: rates and length.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        class_embeddings: Callable[[], Tensor],
        *,
        norms: Mapping[str, nn.Parameter],
        context: Mapping[str, nn.Parameter],
        logit_scale: float,
        objective: Objective,
        settings: StepSettings,
    ) -> None:
        self._encode = encode
        self._class_embeddings = class_embeddings
        self._logit_scale = logit_scale
        self._objective = objective
        self.parameters = {**norms, **context}
        self._rates = [settings.learning_rate, settings.context_learning_rate]
        self._total_steps = settings.total_steps
        self._steps = 0
        groups = [{"params": list(norms.values())}, {"params": list(context.values())}]
        self._optimizer = torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum
        )

    def step(self, images: Tensor, weights: Tensor) -> dict[str, float]:
        """One optimizer step on a batch.

        Args:
            images: (N, 3, H, W) normalised float.
            weights: (N,) above 0.

        Returns:
            The loss (`loss`) and its named parts.

        Raises:
            NonFiniteStepError: loss, gradient or new weight is NaN or Inf; the weights are as before.
        """
        before = self.snapshot()
        self._set_rates()
        with torch.enable_grad():
            logits = self._logit_scale * self._encode(images) @ self._class_embeddings().T  # (N, C)
            loss = self._objective(logits, weights)
            self._optimizer.zero_grad(set_to_none=True)
            loss.total.backward()
        self._refuse_unless_finite([loss.total.detach(), *self._gradients()], before, "gradient")
        self._optimizer.step()
        self._refuse_unless_finite(self.parameters.values(), before, "weight")
        self._steps += 1
        return {"loss": loss.total.item(), **{k: v.item() for k, v in loss.parts.items()}}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of every trained parameter."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put a snapshot back and forget the optimizer's momentum."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(snapshot[name])
        self._optimizer.state.clear()

    def _set_rates(self) -> None:
        cosine = cosine_decay(self._steps, self._total_steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * cosine

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def _refuse_unless_finite(
        self, tensors: Iterable[Tensor], before: Mapping[str, Tensor], what: str
    ) -> None:
        if all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            return
        self.restore(before)
        raise NonFiniteStepError(
            f"step {self._steps + 1} gave a {what} that is NaN or Inf; the weights were restored: "
            "lower the learning rate"
        )


def cosine_decay(step: int, total_steps: int) -> float:
    """Factor from 1 at step 0 towards 0 at `total_steps`, at least 0.

    Example:
        >>> [round(cosine_decay(step, 4), 3) for step in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))


def trainable_only(module: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Put a module in eval mode and let gradients reach these parameters alone."""
    module.eval().requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)


def unit(embeddings: Tensor) -> Tensor:
    """Rows (…, D) scaled to length 1."""
    return F.normalize(embeddings, dim=-1)
