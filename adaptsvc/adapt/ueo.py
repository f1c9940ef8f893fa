"""Universal entropy optimization: learning from unlabeled images, unknown classes among them.

It knows nothing of models, optimizers, devices or data: free functions on tensors.

Reference: Liang et al., "Realistic Unsupervised CLIP Fine-tuning with Universal Entropy
Optimization", ICML 2024.

Deviations from the paper: the sample weight's softmax has a temperature, because the paper's text
(softmax of the scaled logits) and its released code (softmax of the raw cosines) differ; docs/methods.md
says what each gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adaptsvc.errors import ObjectiveError
from adaptsvc.types import WeightTemperature


def sample_weights(
    cosines: Tensor, logit_scale: float, temperature: WeightTemperature = "logit_scale"
) -> Tensor:
    """Largest class probability under the frozen zero-shot model, once per image.

    w(x) = max_k softmax(s · c / temperature)_k

    Args:
        cosines: (N, C), in [-1, 1], of un-augmented images against the zero-shot class embeddings.
        logit_scale: s > 0.
        temperature: > 0; 1 is the paper's text, s its released code, which ``logit_scale`` stands for.

    Returns:
        (N,), in [1/C, 1].

    Raises:
        ObjectiveError: a scale or temperature that is not positive.
    """
    divisor = logit_scale if temperature == "logit_scale" else temperature
    if logit_scale <= 0 or divisor <= 0:
        raise ObjectiveError(
            f"got logit scale {logit_scale} and temperature {temperature}; both must be above 0"
        )
    return (logit_scale * cosines / divisor).softmax(dim=-1).amax(dim=-1)


def entropy(probabilities: Tensor) -> Tensor:
    """H(p) = -Σ p log p in nats over the last dimension; 0 · log 0 counts as 0, gradients stay finite."""
    tiny = torch.finfo(probabilities.dtype).tiny
    return -(probabilities * probabilities.clamp_min(tiny).log()).sum(dim=-1)


def universal_entropy(probabilities: Tensor, weights: Tensor) -> Tensor:
    """The UEO loss of one batch, from probabilities.

    L = Σ_b w_b H(p_b) / Σ_b w_b  -  H(p̄),    p̄ = (Σ_b p_b / w_b) / (Σ_b 1 / w_b)

    The first term makes confident samples more certain, the second keeps the marginal spread and
    pushes unsure samples, likely of unknown classes, to the flat distribution.

    Args:
        probabilities: (N, C), rows on the simplex.
        weights: (N,), above 0.

    Returns:
        Scalar in [-log C, log C].

    Raises:
        ObjectiveError: shapes that do not fit, an empty batch, or a weight that is not positive.

    Example:
        >>> p = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # certain and balanced: the minimum, -log 2
        >>> round(universal_entropy(p, torch.ones(2)).item(), 4)
        -0.6931
    """
    _check(probabilities, weights)
    conditional = (weights * entropy(probabilities)).sum() / weights.sum()
    inverse = weights.reciprocal()
    marginal = (inverse[:, None] * probabilities).sum(dim=0) / inverse.sum()  # (C,)
    return conditional - entropy(marginal)


def universal_entropy_parts(logits: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of `universal_entropy` from logits, by log_softmax and logsumexp.

    Args:
        logits: (N, C).
        weights: (N,), above 0.

    Returns:
        Weighted conditional entropy and inverse-weighted marginal entropy, two scalars in nats; the
        loss is their difference.

    Raises:
        ObjectiveError: as `universal_entropy`.
    """
    _check(logits, weights)
    log_p = logits.log_softmax(dim=-1)  # (N, C)
    conditional = (weights * -(log_p.exp() * log_p).sum(dim=-1)).sum() / weights.sum()
    log_inverse = -weights.log()
    log_marginal = (log_p + log_inverse[:, None]).logsumexp(dim=0) - log_inverse.logsumexp(dim=0)
    marginal = -(log_marginal.exp() * log_marginal).sum()
    return conditional, marginal


def _check(scores: Tensor, weights: Tensor) -> None:
    if scores.ndim != 2 or scores.shape[0] == 0 or weights.shape != scores.shape[:1]:
        raise ObjectiveError(
            f"got scores {tuple(scores.shape)} and weights {tuple(weights.shape)}; expected (N, C) "
            "and (N,) with N at least 1"
        )
    if not bool((weights > 0).all()):
        raise ObjectiveError(
            f"the smallest sample weight is {weights.min().item()}; every weight must be above 0"
        )
