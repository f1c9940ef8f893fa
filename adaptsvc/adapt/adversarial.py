"""Projected gradient descent: the images near a batch that a loss likes least.

It knows nothing of models or objectives: it is given a function from images to a loss.

Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018; used as
in Zhang et al., "Unleashing the Power of Contrastive Self-Supervised Visual Models via Contrast-Regularized
Fine-Tuning", NeurIPS 2021: ten steps, ℓ2 with ε = 0.5 or ℓ∞ with ε = 4/255.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

from adaptsvc.errors import ObjectiveError

Norm: TypeAlias = Literal["l2", "linf"]
EPSILON: dict[Norm, float] = {"l2": 0.5, "linf": 4 / 255}
STEPS = 10
STEP_SHARE = (
    2.5  # of ε over the number of steps, as Madry et al.: every point of the ball can be reached
)


@dataclass(frozen=True, slots=True)
class Attack:
    """How far and how often.

    Attributes:
        norm: in which the distance is measured, over one whole image.
        epsilon: the largest distance, above 0, for pixels in [0, 1].
        steps: of gradient ascent, at least 1.
    """

    norm: Norm
    epsilon: float
    steps: int = STEPS

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and self.steps >= 1):
            raise ObjectiveError(
                f"got epsilon {self.epsilon} and {self.steps} steps; expected above 0 and at least 1"
            )


def perturb(
    images: Tensor, loss: Callable[[Tensor], Tensor], attack: Attack, generator: Generator
) -> Tensor:
    """Images within ε of the given ones, in [0, 1], for which the loss is high.

    x ← clip(x₀ + project(x - x₀ + η · direction(∇ₓ loss(x))), 0, 1), from a random start in the ball.

    Args:
        images: (N, 3, H, W) in [0, 1].
        loss: images -> scalar, the sum or mean over the images.
        attack: how far and how often.
        generator: the only source of randomness, on CPU.

    Returns:
        (N, 3, H, W), detached.
    """
    noise = torch.rand(images.shape, generator=generator).to(images) * 2 - 1
    delta = _project(attack.epsilon * noise, attack)
    step = STEP_SHARE * attack.epsilon / attack.steps
    for _ in range(attack.steps):
        moved = (images + delta).clamp(0, 1).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(moved), moved)
        delta = _project(moved.detach() - images + step * _direction(gradient, attack.norm), attack)
    return (images + delta).clamp(0, 1).detach()


def _direction(gradient: Tensor, norm: Norm) -> Tensor:
    if norm == "linf":
        return gradient.sign()
    return gradient / _length(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def _project(delta: Tensor, attack: Attack) -> Tensor:
    if attack.norm == "linf":
        return delta.clamp(-attack.epsilon, attack.epsilon)
    return delta * (attack.epsilon / _length(delta).clamp_min(attack.epsilon))


def _length(images: Tensor) -> Tensor:
    """ℓ2 norm of each image: (N, 3, H, W) -> (N, 1, 1, 1)."""
    lengths: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return lengths.view(-1, 1, 1, 1)
