"""What an unlabeled objective is; it knows nothing of models, optimizers or data.

An objective is a free function from the logits of a batch and one weight per sample to a `Loss`. To
add one: write the function in a file of its own, name it in `OBJECTIVES`, and let
`tests/adaptsvc/adapt/test_objectives.py` run its shared checks over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from adaptsvc.adapt.ueo import universal_entropy_parts
from adaptsvc.errors import ObjectiveError


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to minimise, and its named parts, detached, for the log."""

    total: Tensor
    parts: Mapping[str, Tensor]


Objective: TypeAlias = Callable[[Tensor, Tensor], Loss]


def universal_entropy_optimization(logits: Tensor, weights: Tensor) -> Loss:
    """UEO on logits (N, C) with sample weights (N,); see `adaptsvc.adapt.ueo`."""
    conditional, marginal = universal_entropy_parts(logits, weights)
    total = conditional - marginal
    parts = {"conditional_entropy": conditional.detach(), "marginal_entropy": marginal.detach()}
    return Loss(total, parts)


def information_maximisation(logits: Tensor, weights: Tensor) -> Loss:
    """UEO with every weight 1 (a baseline): mean entropy minus entropy of the mean."""
    return universal_entropy_optimization(logits, torch.ones_like(weights))


def entropy_minimisation(logits: Tensor, weights: Tensor) -> Loss:
    """Mean entropy alone (a baseline, as in Tent); nothing keeps it from collapsing."""
    conditional, marginal = universal_entropy_parts(logits, torch.ones_like(weights))
    parts = {"conditional_entropy": conditional.detach(), "marginal_entropy": marginal.detach()}
    return Loss(conditional, parts)


OBJECTIVES: Mapping[str, Objective] = {
    "ueo": universal_entropy_optimization,
    "information-maximisation": information_maximisation,
    "entropy-minimisation": entropy_minimisation,
}


def objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ObjectiveError: there is none.
    """
    try:
        return OBJECTIVES[name]
    except KeyError as exc:
        raise ObjectiveError(
            f"no objective is called {name!r}; choose one of {', '.join(OBJECTIVES)}"
        ) from exc
