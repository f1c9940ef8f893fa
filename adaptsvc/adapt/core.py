"""Core-tuning: cross-entropy and a focal contrast, both fed with mixed hard pairs.

It knows nothing of models, optimizers, devices or data: free functions on tensors, and a thin module.

Reference: Zhang et al., "Unleashing the Power of Contrastive Self-Supervised Visual Models via
Contrast-Regularized Fine-Tuning", NeurIPS 2021.

Where the released code differs from the paper we follow the paper: λ is clipped for positives too, hard
negatives are drawn among the other classes, and anchors are averaged over those with positives.

Deviations from the paper: mixed features are brought back to unit length, because the service's
classifier sees unit features only; the classifier is the cosine head that is served, with its scale s.

What the paper leaves open, decided here: anchors are the real samples only (its sum has n terms). A
generated positive carries its anchor's class, so it is a positive of every real sample of that class. A
generated negative has a soft label and belongs to no class: it stands in every denominator and in no
set of positives. A sample with no other of its class in the batch gets no generated positive, one with no
other class in the batch gets neither; nothing stands in for them. η is the least and α the middle of the
paper's range: with ten steps from a few labels a strong contrast through a new projection does harm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptsvc.adapt.labeled import (
    LabeledBatch,
    LabeledObjective,
    check_fraction,
    check_positive,
    check_targets,
)
from adaptsvc.adapt.objective import Loss
from adaptsvc.adapt.supervised import (
    UnitMLP,
    cross_entropy,
    mean_over_positives,
    other_members,
    positive_log_probabilities,
    soft_cross_entropy,
)
from adaptsvc.errors import ObjectiveError

LAMBDA_POSITIVE = 0.8
LAMBDA_NEGATIVE = 0.8
TEMPERATURE = 0.07
PROJECTION_SIZE = 256
ETA = 0.1
ALPHA = 1.0
NO_CLASS = -1


def focal_contrastive_loss(features: Tensor, positive_mask: Tensor, temperature: float) -> Tensor:
    """Supervised contrast in which a pair counts more the less sure it is.

    L = -(1/n) Σ_i (1/|P_i|) Σ_{j∈P_i} (1 - p_ij) log p_ij
    p_ij = exp(f_i·f_j/τ) / Σ_{k≠i} exp(f_i·f_k/τ)

    n counts the anchors with a positive; the others are left out. The mask's diagonal is ignored: no
    sample is its own positive, nor stands in its own denominator.

    Args:
        features: (N, D), unit norm.
        positive_mask: (N, N) bool, [i, j] whether j is a positive of anchor i; need not be symmetric.
        temperature: τ > 0.

    Returns:
        Scalar, at least 0; 0, with gradient, where no anchor has a positive.

    Raises:
        ObjectiveError: shapes that do not fit, a mask that is not bool, a temperature not positive.

    Reference: Zhang et al., NeurIPS 2021.

    Example:
        >>> f = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])  # every p is 1/2
        >>> mask = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]]).bool()
        >>> round(focal_contrastive_loss(f, mask, 0.07).item(), 4)  # log(2) / 2
        0.3466
    """
    _check_mask(features, positive_mask)
    mask = other_members(positive_mask)
    log_p = positive_log_probabilities(features, mask, temperature)  # (N, N)
    return mean_over_positives(torch.expm1(log_p) * log_p, mask)


def mixing_coefficients(
    count: int, alpha: float, smallest: float, generator: torch.Generator
) -> Tensor:
    """λ = max(Beta(α, α), smallest), one per sample.

    Args:
        count: N.
        alpha: α > 0.
        smallest: in [0, 1].
        generator: on the CPU.

    Returns:
        (N,) float64 on the CPU, in [smallest, 1].

    Raises:
        ObjectiveError: an α or a smallest value out of range.
    """
    check_positive(alpha=alpha)
    check_fraction(smallest=smallest)
    # Beta as a ratio of two Gamma draws, for torch.distributions takes no generator; in float64,
    # for with a small α both underflow in float32.
    shape = torch.full((2, count), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator)
    share: Tensor = first / (first + second)
    return share.clamp_min(smallest)


def mix_hard_positives(features: Tensor, targets: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """For each anchor, its hardest positive with a little of its hardest negative.

    z⁺ = unit(λ z_hp + (1-λ) z_hn), hp the sample of its class of lowest cosine to the anchor, hn the
    sample of another class of highest cosine.

    Args:
        features: (N, D), unit norm.
        targets: (N,), int64.
        lam: (N,), λ in [0, 1] per anchor.

    Returns:
        Mixed features (M, D), unit norm, and the class each carries (M,), in the order of the anchors;
        M ≤ N, for an anchor that lacks either sample has none.

    Raises:
        ObjectiveError: shapes or types that do not fit.

    Reference: Zhang et al., NeurIPS 2021.
    """
    _check_mixing(features, targets, lam)
    cosines = (features @ features.T).detach()
    same = targets[:, None] == targets[None, :]
    positives = other_members(same)
    hardest_positive = cosines.masked_fill(~positives, torch.inf).argmin(dim=1)  # (N,)
    hardest_negative = cosines.masked_fill(same, -torch.inf).argmax(dim=1)  # (N,)
    kept = positives.any(dim=1) & ~same.all(dim=1)
    share = lam.to(features)[kept, None]  # (M, 1)
    mixed = torch.lerp(features[hardest_negative[kept]], features[hardest_positive[kept]], share)
    return F.normalize(mixed, dim=-1), targets[kept]


def mix_hard_negatives(
    features: Tensor, targets: Tensor, lam: Tensor, classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """For each anchor, a random sample of another class with a little of the anchor, and its soft label.

    z⁻ = unit((1-λ) z_i + λ z_n),    y⁻ = (1-λ) y_i + λ y_n,    n uniform among the other classes' samples

    Args:
        features: (N, D), unit norm.
        targets: (N,), int64 in [0, classes).
        lam: (N,), λ in [0, 1] per anchor.
        classes: C.
        generator: on the CPU; draws n.

    Returns:
        Mixed features (M, D), unit norm, and soft labels (M, C), in the order of the anchors; M is N, or
        0 where the batch has one class only.

    Raises:
        ObjectiveError: shapes or types that do not fit.

    Reference: Zhang et al., NeurIPS 2021.
    """
    _check_mixing(features, targets, lam)
    same = targets[:, None] == targets[None, :]
    draws = torch.rand(same.shape, generator=generator).to(features.device)
    partner = draws.masked_fill(same, -1.0).argmax(dim=1)  # (N,)
    kept = ~same.all(dim=1)
    share = lam.to(features)[kept, None]  # (M, 1)
    labels = F.one_hot(targets, classes).to(features.dtype)
    mixed = torch.lerp(features[kept], features[partner[kept]], share)
    return F.normalize(mixed, dim=-1), torch.lerp(labels[kept], labels[partner[kept]], share)


class CoreTuning(LabeledObjective):
    """Cross-entropy on real features and hard negatives, and the focal contrast over all of them."""

    def __init__(
        self,
        class_embeddings: Tensor,
        logit_scale: float,
        *,
        generator: torch.Generator,
        eta: float = ETA,
        alpha: float = ALPHA,
    ) -> None:
        super().__init__(class_embeddings, logit_scale, generator=generator)
        check_positive(eta=eta, alpha=alpha)
        self.eta, self.alpha = eta, alpha
        width = class_embeddings.shape[1]
        self.projection = UnitMLP(width, PROJECTION_SIZE, generator=generator).to(class_embeddings)

    def loss(self, batch: LabeledBatch) -> Loss:
        """L = CE(s f Wᵀ, y) + CE(s z⁻ Wᵀ, y⁻) + η L_con."""
        features, targets, count = batch.features, batch.targets, len(batch.targets)
        lam = mixing_coefficients(count, self.alpha, LAMBDA_POSITIVE, batch.generator)
        positives, positive_targets = mix_hard_positives(features, targets, lam)
        lam = mixing_coefficients(count, self.alpha, LAMBDA_NEGATIVE, batch.generator)
        negatives, soft_targets = mix_hard_negatives(
            features, targets, lam, self.head.shape[0], batch.generator
        )
        projected = self.projection(torch.cat([features, positives, negatives]))
        mask = _positives(targets, positive_targets, len(negatives))
        real = cross_entropy(self.logits(features), targets)
        hard = soft_cross_entropy(self.logits(negatives), soft_targets)
        contrast = focal_contrastive_loss(projected, mask, TEMPERATURE)
        parts = {"cross_entropy": real, "hard_negatives": hard, "contrastive": contrast}
        return Loss(
            real + hard + self.eta * contrast, {name: part.detach() for name, part in parts.items()}
        )


def _positives(targets: Tensor, generated: Tensor, negatives: int) -> Tensor:
    """The mask over real samples, generated positives and generated negatives; real anchors only."""
    nothing = targets.new_full((negatives,), NO_CLASS)
    owners = torch.cat([targets, generated, nothing])
    mask = owners[:, None] == owners[None, :]
    mask[len(targets) :] = False
    return mask


def _check_mask(features: Tensor, positive_mask: Tensor) -> None:
    count = features.shape[0] if features.ndim == 2 else 0
    if count == 0 or positive_mask.shape != (count, count):
        raise ObjectiveError(
            f"got features {tuple(features.shape)} and mask {tuple(positive_mask.shape)}; expected "
            "(N, D) and (N, N) with N at least 1"
        )
    if positive_mask.dtype != torch.bool:
        raise ObjectiveError(f"got a mask of type {positive_mask.dtype}; expected torch.bool")


def _check_mixing(features: Tensor, targets: Tensor, lam: Tensor) -> None:
    check_targets(features, targets)
    if lam.shape != targets.shape:
        raise ObjectiveError(
            f"got {tuple(lam.shape)} mixing coefficients; expected {tuple(targets.shape)}"
        )
