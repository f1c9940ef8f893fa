"""The plain ways to learn from labels: cross-entropy, label smoothing, supervised contrast.

It knows nothing of models, optimizers, devices or data: free functions on tensors, and thin modules that
hold what the functions train. The pieces that other objectives share live here too: cross-entropy to
soft targets, the log-probabilities of pairs, and small nets drawn from a passed generator.

References: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016 (label
smoothing); Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.

Deviations from Khosla et al.: the contrastive term and the classifier are trained together, not in two
stages, so that every step leaves a head that can be served; the weight of the term is ours. Anchors
without a positive in the batch are left out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptsvc.adapt.labeled import (
    LabeledBatch,
    LabeledObjective,
    check_fraction,
    check_labels,
    check_positive,
    check_targets,
)
from adaptsvc.adapt.objective import Loss
from adaptsvc.errors import ObjectiveError

SMOOTHING = 0.1
CONTRASTIVE_TEMPERATURE = 0.1
CONTRASTIVE_WEIGHT = 1.0
PROJECTION_SIZE = 128


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-probability of the targets.

    L = -(1/N) Σ_i log softmax(z_i)_{y_i}

    Args:
        logits: (N, C).
        targets: (N,), int64 in [0, C).

    Returns:
        Scalar, at least 0.

    Raises:
        ObjectiveError: shapes, types or targets that do not fit.

    Example:
        >>> round(cross_entropy(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.6931
    """
    check_labels(logits, targets)
    return F.cross_entropy(logits, targets)


def label_smoothing_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy to targets mixed with the flat distribution.

    L = (1 - ε) CE(z, y) - (ε/C) (1/N) Σ_i Σ_k log softmax(z_i)_k

    Args:
        logits: (N, C).
        targets: (N,), int64 in [0, C).
        smoothing: ε in [0, 1]; 0 is `cross_entropy`.

    Returns:
        Scalar, at least 0.

    Raises:
        ObjectiveError: as `cross_entropy`, or a smoothing outside [0, 1].

    Reference: Szegedy et al., CVPR 2016, section 7.
    """
    check_labels(logits, targets)
    check_fraction(smoothing=smoothing)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def soft_cross_entropy(logits: Tensor, soft_targets: Tensor) -> Tensor:
    """Cross-entropy to a distribution per row; 0, with gradient, for no rows.

    L = -(1/N) Σ_i Σ_k q_ik log softmax(z_i)_k

    Args:
        logits: (N, C), N may be 0.
        soft_targets: (N, C), rows on the simplex.

    Returns:
        Scalar, at least 0.

    Raises:
        ObjectiveError: shapes that differ or are not two-dimensional.
    """
    if logits.ndim != 2 or logits.shape != soft_targets.shape:
        raise ObjectiveError(
            f"got logits {tuple(logits.shape)} and soft targets {tuple(soft_targets.shape)}; "
            "expected (N, C) twice"
        )
    return -(soft_targets * logits.log_softmax(dim=-1)).sum() / max(1, logits.shape[0])


def supervised_contrastive_loss(features: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The SupCon loss with the sum over positives outside the logarithm (L_out).

    L = -(1/n) Σ_i (1/|P_i|) Σ_{j∈P_i} log p_ij,    p_ij = exp(f_i·f_j/τ) / Σ_{k≠i} exp(f_i·f_k/τ)

    P_i are the other samples of the class of i, n the anchors that have any.

    Args:
        features: (N, D), unit norm.
        targets: (N,), int64.
        temperature: τ > 0.

    Returns:
        Scalar, at least 0; 0, with gradient, where no anchor has a positive.

    Raises:
        ObjectiveError: shapes or types that do not fit, or a temperature that is not positive.

    Reference: Khosla et al., NeurIPS 2020, equation 2.
    """
    check_targets(features, targets)
    mask = other_members(targets[:, None] == targets[None, :])
    return -mean_over_positives(positive_log_probabilities(features, mask, temperature), mask)


def other_members(mask: Tensor) -> Tensor:
    """(N, N), the mask without its diagonal: a sample is not its own positive."""
    return mask & ~torch.eye(mask.shape[0], dtype=torch.bool, device=mask.device)


def positive_log_probabilities(
    features: Tensor, positive_mask: Tensor, temperature: float
) -> Tensor:
    """log p_ij for each positive pair, 0 elsewhere; the denominator is over all but i itself.

    Args:
        features: (N, D), unit norm.
        positive_mask: (N, N) bool, its diagonal False.
        temperature: τ > 0.

    Returns:
        (N, N), at most 0.

    Raises:
        ObjectiveError: a temperature that is not positive.
    """
    check_positive(temperature=temperature)
    scores = features @ features.T / temperature  # (N, N)
    itself = torch.eye(scores.shape[0], dtype=torch.bool, device=scores.device)
    # The least finite number, not -inf: a lone sample's row would become NaN.
    log_p = scores.masked_fill(itself, torch.finfo(scores.dtype).min).log_softmax(dim=-1)
    return log_p.masked_fill(~positive_mask, 0.0)


def mean_over_positives(values: Tensor, positive_mask: Tensor) -> Tensor:
    """Mean over each anchor's positives, then over the anchors that have any; 0 where none has.

    Args:
        values: (N, N), 0 wherever the mask is False.
        positive_mask: (N, N) bool.

    Returns:
        Scalar.
    """
    positives = positive_mask.sum(dim=1)  # (N,)
    per_anchor = values.sum(dim=1) / positives.clamp_min(1)
    return per_anchor.sum() / (positives > 0).sum().clamp_min(1)


def seeded_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with the usual first weights, drawn from the generator alone; bias 0."""
    # nn.Linear's own constructor would draw from torch's global generator.
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class UnitMLP(nn.Module):
    """v = G(f) / ‖G(f)‖ with G two linear layers and a ReLU between; trained, never served."""

    def __init__(self, inputs: int, outputs: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            seeded_linear(inputs, inputs, generator),
            nn.ReLU(),
            seeded_linear(inputs, outputs, generator),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs), unit norm."""
        return F.normalize(self.layers(features), dim=-1)


class CrossEntropy(LabeledObjective):
    """Cross-entropy of the head's logits (a baseline)."""

    def loss(self, batch: LabeledBatch) -> Loss:
        """See `cross_entropy`."""
        total = cross_entropy(self.logits(batch.features), batch.targets)
        return Loss(total, {"cross_entropy": total.detach()})


class LabelSmoothing(LabeledObjective):
    """Cross-entropy with label smoothing (a baseline; TeS is compared to it)."""

    def __init__(
        self,
        class_embeddings: Tensor,
        logit_scale: float,
        *,
        generator: torch.Generator,
        smoothing: float = SMOOTHING,
    ) -> None:
        super().__init__(class_embeddings, logit_scale, generator=generator)
        check_fraction(smoothing=smoothing)
        self.smoothing = smoothing

    def loss(self, batch: LabeledBatch) -> Loss:
        """See `label_smoothing_cross_entropy`."""
        logits = self.logits(batch.features)
        total = label_smoothing_cross_entropy(logits, batch.targets, self.smoothing)
        return Loss(total, {"label_smoothing": total.detach()})


class SupervisedContrastive(LabeledObjective):
    """Cross-entropy plus supervised contrast on a projection head (a baseline; Core builds on it)."""

    def __init__(
        self,
        class_embeddings: Tensor,
        logit_scale: float,
        *,
        generator: torch.Generator,
        weight: float = CONTRASTIVE_WEIGHT,
    ) -> None:
        super().__init__(class_embeddings, logit_scale, generator=generator)
        check_positive(weight=weight)
        self.contrastive_weight = weight
        width = class_embeddings.shape[1]
        self.projection = UnitMLP(width, PROJECTION_SIZE, generator=generator).to(class_embeddings)

    def loss(self, batch: LabeledBatch) -> Loss:
        """L = CE(s f Wᵀ, y) + weight · SupCon(v, y)."""
        classified = cross_entropy(self.logits(batch.features), batch.targets)
        projected = self.projection(batch.features)
        contrast = supervised_contrastive_loss(projected, batch.targets, CONTRASTIVE_TEMPERATURE)
        parts = {"cross_entropy": classified.detach(), "contrastive": contrast.detach()}
        return Loss(classified + self.contrastive_weight * contrast, parts)
