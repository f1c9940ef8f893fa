"""TeS: fine-tuning with the class names' text features as a second supervision.

It knows nothing of models, optimizers, devices or data: a free function on tensors, and a thin module.

Reference: Wang et al., "Improved Visual Fine-tuning with Natural Language Supervision", ICCV 2023.

Deviations from the paper: the vision classifier is the cosine head that is served (unit features, scale
s, no bias), started from the class embeddings instead of at random; the text dimension is that of the
features, for CLIP shares it. h keeps no running statistics: it is never served, and a step that is undone
then leaves no trace. A batch of one image has no batch statistics and is only scaled and shifted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptsvc.adapt.labeled import (
    LabeledBatch,
    LabeledObjective,
    check_fraction,
    check_labels,
    check_positive,
)
from adaptsvc.adapt.objective import Loss
from adaptsvc.adapt.supervised import cross_entropy, seeded_linear, soft_cross_entropy
from adaptsvc.errors import ObjectiveError

LAMBDA_V = 0.1
LAMBDA_T = 0.3
TEMPERATURE = 0.03


def text_supervised_loss(
    vision_logits: Tensor, text_logits: Tensor, targets: Tensor, lambda_v: float, lambda_t: float
) -> Tensor:
    """Cross-entropy to targets softened by the text classifier, plus that classifier's own.

    q = (1-λ_v) onehot(y) + λ_v softmax(u),    L = CE(z, q) + λ_t CE(u, y)

    softmax(u) inside q is not back-propagated.

    Args:
        vision_logits: z (N, C).
        text_logits: u (N, C), divided by the temperature already.
        targets: (N,), int64 in [0, C).
        lambda_v: in [0, 1].
        lambda_t: at least 0; both 0 give plain cross-entropy.

    Returns:
        Scalar, at least 0.

    Raises:
        ObjectiveError: shapes, types or targets that do not fit, or a λ out of range.

    Reference: Wang et al., ICCV 2023.
    """
    vision, text = _terms(vision_logits, text_logits, targets, lambda_v)
    _check_weight(lambda_t)
    return vision + lambda_t * text


class TextHead(nn.Module):
    """h: Linear-BatchNorm-ReLU-Linear to the text dimension, unit norm; trained, never served."""

    def __init__(self, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.inner = seeded_linear(width, width, generator)
        self.norm = nn.BatchNorm1d(width, track_running_stats=False)
        self.outer = seeded_linear(width, width, generator)

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) to (N, D), unit norm."""
        hidden = self._normalise(self.inner(features)).relu()
        return F.normalize(self.outer(hidden), dim=-1)

    def _normalise(self, hidden: Tensor) -> Tensor:
        if len(hidden) > 1:
            normalised: Tensor = self.norm(hidden)
            return normalised
        return hidden * self.norm.weight + self.norm.bias


class TextSupervised(LabeledObjective):
    """The served head, softened and supported by the fixed text classifier behind h."""

    def __init__(
        self,
        class_embeddings: Tensor,
        logit_scale: float,
        *,
        generator: torch.Generator,
        lambda_v: float = LAMBDA_V,
        lambda_t: float = LAMBDA_T,
    ) -> None:
        super().__init__(class_embeddings, logit_scale, generator=generator)
        check_fraction(lambda_v=lambda_v)
        _check_weight(lambda_t)
        self.lambda_v, self.lambda_t = lambda_v, lambda_t
        self.text_head = TextHead(class_embeddings.shape[1], generator=generator).to(
            class_embeddings
        )

    def text_logits(self, features: Tensor) -> Tensor:
        """u = h(f) · Tᵀ / τ, (N, C)."""
        embedded: Tensor = self.text_head(features)
        return embedded @ self.text.T / TEMPERATURE

    def loss(self, batch: LabeledBatch) -> Loss:
        """See `text_supervised_loss`."""
        logits, text_logits = self.logits(batch.features), self.text_logits(batch.features)
        vision, text = _terms(logits, text_logits, batch.targets, self.lambda_v)
        parts = {"vision": vision.detach(), "text": text.detach()}
        return Loss(vision + self.lambda_t * text, parts)


def _terms(
    vision_logits: Tensor, text_logits: Tensor, targets: Tensor, lambda_v: float
) -> tuple[Tensor, Tensor]:
    check_labels(vision_logits, targets)
    check_fraction(lambda_v=lambda_v)
    if text_logits.shape != vision_logits.shape:
        raise ObjectiveError(
            f"got vision logits {tuple(vision_logits.shape)} and text logits "
            f"{tuple(text_logits.shape)}; expected (N, C) twice"
        )
    labels = F.one_hot(targets, vision_logits.shape[1]).to(vision_logits.dtype)
    softened = torch.lerp(labels, text_logits.detach().softmax(dim=-1).to(labels), lambda_v)
    return soft_cross_entropy(vision_logits, softened), cross_entropy(text_logits, targets)


def _check_weight(lambda_t: float) -> None:
    if lambda_t != 0:
        check_positive(lambda_t=lambda_t)
