"""CaRot: fine-tuning that stays calibrated under shift.

It knows nothing of models, optimizers, devices or data: free functions on tensors, and a thin module. The
averaged model is the caller's; this file only says how fast it follows.

Reference: Oh et al., "Towards Calibrated Robust Fine-Tuning of Vision-Language Models", NeurIPS 2024.

Deviations from the paper: the trained class head, its rows brought to unit norm, stands in for the text
tower, so the text features of a batch are the head's rows of its targets and what is trained is what is
served. The teacher's text features are an average of those rows, moved by `update_teacher`. Samples of
one class are not each other's negatives, as they would be in a plain in-batch loss (see
`multimodal_contrastive_loss`). Self-distillation is a cross-entropy to the teacher's distributions; a
divergence from them has the same gradient.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptsvc.adapt.labeled import (
    LabeledBatch,
    LabeledObjective,
    check_fraction,
    check_positive,
    check_targets,
    teacher_features,
)
from adaptsvc.adapt.objective import Loss
from adaptsvc.adapt.supervised import other_members, soft_cross_entropy
from adaptsvc.errors import ObjectiveError

LAMBDA_OC = 0.2
LAMBDA_SD = 1.5
FIRST_MOMENTUM = 0.05
LAST_MOMENTUM = 0.9
RISING_SHARE = 0.2  # of all steps


def orthogonality_penalty(weight: Tensor) -> Tensor:
    """How far the columns of a projection are from orthonormal.

    L = ‖WᵀW - I‖_F, its gradient taken as 0 where L is 0

    Args:
        weight: W (D_in, D).

    Returns:
        Scalar, at least 0.

    Raises:
        ObjectiveError: a weight that is not a matrix.

    Reference: Oh et al., NeurIPS 2024.

    Example:
        >>> orthogonality_penalty(2 * torch.eye(4)).item()  # ‖3 I‖ = 3 · √4
        6.0
    """
    if weight.ndim != 2 or weight.numel() == 0:
        raise ObjectiveError(f"got a weight {tuple(weight.shape)}; expected (D_in, D)")
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    penalty: Tensor = torch.linalg.matrix_norm(weight.T @ weight - identity)
    return penalty


def multimodal_contrastive_loss(
    image_features: Tensor, text_features: Tensor, targets: Tensor, logit_scale: float
) -> Tensor:
    """Each image finds its text among those of other classes, and each text its image.

    L = -(1/2N) Σ_i [ log e^{z_ii} / Σ_{k∈A_i} e^{z_ik} + log e^{z_ii} / Σ_{k∈A_i} e^{z_ki} ],  z = s I Tᵀ

    A_i is i and the samples of other classes: those of its own class are left out of the denominators.
    The other way, several positives sharing the target, cannot reach 0 (its floor is the mean log of the
    class counts), still pulls on a batch of one class, and asks all images of a class to be equally near
    to their text. With all classes different this is CLIP's loss.

    Args:
        image_features: I (N, D), unit norm.
        text_features: T (N, D), unit norm, of each sample's own class.
        targets: (N,), int64.
        logit_scale: s > 0.

    Returns:
        Scalar, at least 0; 0 for a batch of one class.

    Raises:
        ObjectiveError: shapes or types that do not fit, or a scale that is not positive.

    Reference: Oh et al., NeurIPS 2024.
    """
    check_targets(image_features, targets)
    check_positive(logit_scale=logit_scale)
    if text_features.shape != image_features.shape:
        raise ObjectiveError(
            f"got image features {tuple(image_features.shape)} and text features "
            f"{tuple(text_features.shape)}; expected (N, D) twice"
        )
    left_out = other_members(targets[:, None] == targets[None, :])
    scores = logit_scale * image_features @ text_features.T  # (N, N), images down
    scores = scores.masked_fill(left_out, -torch.inf)
    to_text, to_image = (scores.log_softmax(dim=dim).diagonal().mean() for dim in (1, 0))
    return -(to_text + to_image) / 2


def self_distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy to the teacher's image-to-text and text-to-image distributions, averaged.

    L = ½ [ CE(z, softmax(ẑ)) + CE(zᵀ, softmax(ẑᵀ)) ], softmax over the last dimension, ẑ detached

    Args:
        student_logits: z (N, N), images down, texts across.
        teacher_logits: ẑ (N, N).

    Returns:
        Scalar, at least the teacher's mean entropy.

    Raises:
        ObjectiveError: shapes that differ or are not square.

    Reference: Oh et al., NeurIPS 2024.
    """
    shape = student_logits.shape
    if len(shape) != 2 or shape[0] != shape[1] or teacher_logits.shape != shape or shape[0] == 0:
        raise ObjectiveError(
            f"got student's logits {tuple(shape)} and teacher's {tuple(teacher_logits.shape)}; "
            "expected (N, N) twice with N at least 1"
        )
    teacher = teacher_logits.detach()
    to_text = soft_cross_entropy(student_logits, teacher.softmax(dim=1))
    to_image = soft_cross_entropy(student_logits.T, teacher.T.softmax(dim=1))
    return (to_text + to_image) / 2


def ema_momentum(step: int, total_steps: int) -> float:
    """The share of the old teacher that stays at a step: 0.05 at first, 0.9 after a fifth of the steps.

    m = 0.05 + 0.85 · min(1, step / (0.2 · total))

    Args:
        step: at least 0.
        total_steps: at least 1.

    Returns:
        In [0.05, 0.9].

    Raises:
        ObjectiveError: a count out of range.

    Example:
        >>> [round(ema_momentum(step, 100), 3) for step in (0, 10, 20, 100)]
        [0.05, 0.475, 0.9, 0.9]
    """
    if step < 0 or total_steps < 1:
        raise ObjectiveError(
            f"got step {step} of {total_steps}; expected a step from 0 and a total from 1"
        )
    risen = min(1.0, step / (RISING_SHARE * total_steps))
    return (1 - risen) * FIRST_MOMENTUM + risen * LAST_MOMENTUM


class CaRot(LabeledObjective):
    """Contrast with the head's own rows, orthogonality of the projection, and self-distillation.

    Attributes:
        teacher_head: (C, D), unit norm, the average of the head's rows; not trained.
    """

    needs_teacher: ClassVar[bool] = True
    teacher_head: Tensor

    def __init__(
        self, class_embeddings: Tensor, logit_scale: float, *, generator: torch.Generator
    ) -> None:
        super().__init__(class_embeddings, logit_scale, generator=generator)
        self.register_buffer("teacher_head", class_embeddings.detach().clone())

    def weight(self) -> Tensor:
        """(C, D), the head's rows at unit norm."""
        return F.normalize(self.head, dim=-1)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher's rows toward the head's and back to unit norm.

        Raises:
            ObjectiveError: a momentum outside [0, 1].
        """
        check_fraction(momentum=momentum)
        averaged = torch.lerp(self.weight(), self.teacher_head, momentum)
        self.teacher_head.copy_(F.normalize(averaged, dim=-1))

    def loss(self, batch: LabeledBatch) -> Loss:
        """L = L_contrastive + λ_OC ‖WᵀW - I‖_F + λ_SD L_distillation; no W, no second term."""
        texts = self.weight()[batch.targets]  # (N, D)
        contrast = multimodal_contrastive_loss(
            batch.features, texts, batch.targets, self.logit_scale
        )
        student = self.logit_scale * batch.features @ texts.T  # (N, N)
        distilled = self_distillation_loss(student, self._teacher_logits(batch))
        penalty = contrast.new_zeros(())
        if batch.projection is not None:
            penalty = orthogonality_penalty(batch.projection)
        parts = {"contrastive": contrast, "orthogonality": penalty, "self_distillation": distilled}
        return Loss(
            contrast + LAMBDA_OC * penalty + LAMBDA_SD * distilled,
            {name: part.detach() for name, part in parts.items()},
        )

    def _teacher_logits(self, batch: LabeledBatch) -> Tensor:
        """(N, N), the teacher's images against the teacher's texts."""
        texts = self.teacher_head[batch.targets]
        return self.logit_scale * teacher_features(batch) @ texts.T
