"""Whether a candidate may serve, from its answers on the window alone; numpy only.

It knows nothing of models, versions or streams. An unlabeled objective can fail silently, so a candidate
must stay near what the frozen zero-shot model is sure of, and must not pour all images into a few classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from adaptsvc.types import Float64

Reason: TypeAlias = Literal["not_finite", "marginal_collapsed", "disagrees_with_zero_shot"]


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """What a candidate must keep.

    Attributes:
        marginal_entropy_kept: marginal entropy of its predictions, as a share of the zero-shot model's.
        agreement: share of the confident images on which both choose the same class, in [0, 1].
        confident_share: how many of the window's surest zero-shot answers count as confident, in (0, 1].
    """

    marginal_entropy_kept: float
    agreement: float
    confident_share: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard found.

    Attributes:
        reasons: why it is refused; empty when it may serve.
        marginal_entropy_nats: of the candidate's mean prediction.
        agreement: with the zero-shot model where that one is confident, in [0, 1].
    """

    reasons: tuple[Reason, ...]
    marginal_entropy_nats: float
    agreement: float

    @property
    def accepted(self) -> bool:
        """Whether the candidate may serve."""
        return not self.reasons


def judge(candidate: Float64, zero_shot: Float64, limits: GuardLimits) -> Verdict:
    """Hold a candidate's probabilities against the frozen zero-shot model's, on the same images.

    Args:
        candidate: (N, C) probabilities.
        zero_shot: (N, C) probabilities.
        limits: what must be kept.

    Raises:
        ValueError: no images, or shapes that differ.
    """
    if candidate.shape != zero_shot.shape or candidate.ndim != 2 or len(candidate) == 0:
        raise ValueError(
            f"got candidate {candidate.shape} and zero-shot {zero_shot.shape}; expected (N, C) twice"
        )
    if not (np.isfinite(candidate).all() and np.isfinite(zero_shot).all()):
        return Verdict(("not_finite",), 0.0, 0.0)
    spread = marginal_entropy(candidate)
    agreement = confident_agreement(candidate, zero_shot, limits.confident_share)
    reasons: list[Reason] = []
    if spread < limits.marginal_entropy_kept * marginal_entropy(zero_shot):
        reasons.append("marginal_collapsed")
    if agreement < limits.agreement:
        reasons.append("disagrees_with_zero_shot")
    return Verdict(tuple(reasons), spread, agreement)


def marginal_entropy(probabilities: Float64) -> float:
    """Entropy in nats of the mean of (N, C) probabilities, in [0, log C]."""
    mean = probabilities.mean(axis=0)
    present = mean[mean > 0]
    return float(-(present * np.log(present)).sum())


def confident_agreement(candidate: Float64, zero_shot: Float64, share: float) -> float:
    """Share of equal choices among the images the zero-shot model is surest of."""
    count = max(1, round(share * len(zero_shot)))
    surest = np.argsort(-zero_shot.max(axis=-1), kind="stable")[:count]
    return float((candidate[surest].argmax(-1) == zero_shot[surest].argmax(-1)).mean())
