"""One learner: what is trained, one step at a time, undone when it goes wrong.

It knows nothing of CLIP, streams or files, nor of how ranks talk: it is given an image encoder and a
function that makes class embeddings. The model stays in eval mode, so BatchNorm's running statistics do not
move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from adaptsvc.adapt.distributed import SINGLE, Ranks
from adaptsvc.adapt.objective import Objective
from adaptsvc.adapt.stepping import Descent, Group, Stepper
from adaptsvc.errors import ObjectiveError

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


@dataclass(frozen=True, slots=True)
class DualEncoder:
    """What is stepped: two towers as functions, and what of them is trained.

    Attributes:
        encode: (N, 3, H, W) float -> (N, D) unit embeddings, differentiable.
        class_embeddings: () -> (C, D) unit embeddings, differentiable in the context.
        logit_scale: s > 0.
        norms: parameters trained at `learning_rate`, by name.
        context: parameters trained at `context_learning_rate`, by name; may be empty.
    """

    encode: Callable[[Tensor], Tensor]
    class_embeddings: Callable[[], Tensor]
    logit_scale: float
    norms: Mapping[str, nn.Parameter]
    context: Mapping[str, nn.Parameter]


class Adapter:
    """Steps an objective over a fixed set of parameters.

    Args:
        model: what is stepped.
        objective: the loss.
        settings: rates and length.
        ranks: the processes that step together, from equal weights; by default this one alone.
    """

    def __init__(
        self,
        model: DualEncoder,
        objective: Objective,
        settings: StepSettings,
        ranks: Ranks = SINGLE,
    ) -> None:
        self._model = model
        self._objective = objective
        self._ranks = ranks
        self.stepper = Stepper(
            Group(model.norms, settings.learning_rate),
            Group(model.context, settings.context_learning_rate),
            descent=Descent(settings.momentum, settings.total_steps),
            ranks=ranks,
        )

    def step(self, images: Tensor, weights: Tensor) -> dict[str, float]:
        """One optimizer step on a batch, the same on every rank.

        Args:
            images: (N, 3, H, W) normalised float, this rank's share of the batch; N may be 0.
            weights: (N,) above 0, of those images.

        Returns:
            The whole batch's loss (`loss`) and its named parts.

        Raises:
            NonFiniteStepError: loss, gradient or new weight is NaN or Inf on a rank; the weights are as
                before on all.
            RanksError: another rank is gone.
        """
        with torch.enable_grad():
            logits = self._ranks.gather(self._logits(images))  # (N of all ranks, C)
            loss = self._objective(logits, self._ranks.gather(weights))
        self.stepper.step(loss.total, backward=len(images) > 0)
        return {"loss": loss.total.item(), **{k: v.item() for k, v in loss.parts.items()}}

    def _logits(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, C); many towers refuse an empty share, so it does not reach them."""
        classes = self._model.class_embeddings()  # (C, D)
        embeddings = self._model.encode(images) if len(images) else classes[:0]  # (N, D)
        return self._model.logit_scale * embeddings @ classes.T


def trainable_only(module: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Put a module in eval mode and let gradients reach these parameters alone."""
    module.eval().requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)


def unit(embeddings: Tensor) -> Tensor:
    """Rows (…, D) scaled to length 1."""
    return F.normalize(embeddings, dim=-1)
