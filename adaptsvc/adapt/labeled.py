"""What a labeled objective is; it knows nothing of models, optimizers, schedules or data.

A labeled objective holds the class head that is served, and whatever else it trains, and turns the
features of a labeled batch into a `Loss`. To add one: subclass `LabeledObjective` in a file of its own,
name it in `adaptsvc.adapt.labeled_objectives.LABELED`, and let
`tests/adaptsvc/adapt/test_labeled_objectives.py` run its shared checks over it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from adaptsvc.adapt.objective import Loss
from adaptsvc.errors import ObjectiveError

UNIT_TOLERANCE = 0.02  # rounding to bfloat16 moves a norm by up to 0.4 %


@dataclass(frozen=True, slots=True)
class LabeledBatch:
    """The features of labeled images, and what an objective may need beside them.

    Attributes:
        features: (N, D), unit norm, with gradient.
        targets: (N,), int64 in [0, C).
        generator: the only source of randomness; on the CPU, draws are moved to the features.
        teacher_features: (N, D), unit norm, of the averaged model; for objectives with `needs_teacher`.
        projection: (D_in, D), the visual projection where there is one that is trained.
    """

    features: Tensor
    targets: Tensor
    generator: torch.Generator
    teacher_features: Tensor | None = None
    projection: Tensor | None = None


class LabeledObjective(nn.Module, ABC):
    """A class head, what else is trained beside it, and the loss that trains them.

    Attributes:
        needs_teacher: whether batches must carry features of an averaged model.
        logit_scale: s > 0, fixed.
        head: (C, D), trained; starts as the class embeddings.
        text: (C, D), the class embeddings, fixed.
    """

    needs_teacher: ClassVar[bool] = False
    text: Tensor

    def __init__(
        self, class_embeddings: Tensor, logit_scale: float, *, generator: torch.Generator
    ) -> None:
        """Start from the zero-shot classifier.

        Args:
            class_embeddings: (C, D), finite, unit norm; their device and type are the objective's.
            logit_scale: s > 0.
            generator: draws the first weights of the nets a subclass adds; this class draws nothing.

        Raises:
            ObjectiveError: embeddings that are no such matrix, or a scale that is not positive.
        """
        super().__init__()
        check_positive(logit_scale=logit_scale)
        check_unit_rows("class embeddings", class_embeddings)
        if not bool(class_embeddings.isfinite().all()):
            raise ObjectiveError(
                "the class embeddings hold NaN or Inf; encode the class names anew"
            )
        self.logit_scale = float(logit_scale)
        self.head = nn.Parameter(class_embeddings.detach().clone())
        self.register_buffer("text", class_embeddings.detach().clone())

    def weight(self) -> Tensor:
        """(C, D), what features are multiplied by, with gradient to the head."""
        return self.head

    def logits(self, features: Tensor) -> Tensor:
        """z = s · f Wᵀ, exactly as the service computes it from `served_head`.

        Args:
            features: (N, D), unit norm.

        Returns:
            (N, C).
        """
        return self.logit_scale * features @ self.weight().T

    def served_head(self) -> Tensor:
        """(C, D), a detached copy of what the service multiplies features by."""
        return self.weight().detach().clone()

    def update_teacher(self, momentum: float) -> None:
        """Average what this objective keeps of the teacher, when the model's teacher is averaged.

        Args:
            momentum: in [0, 1], the share of the old teacher that stays.
        """

    def forward(self, batch: LabeledBatch) -> Loss:
        """The loss of one batch, after checking that the batch fits.

        Raises:
            ObjectiveError: shapes, types or values that do not fit the head or each other, or no
                teacher's features where the objective needs them.
        """
        self._check(batch)
        return self.loss(batch)

    @abstractmethod
    def loss(self, batch: LabeledBatch) -> Loss:
        """The loss of a batch that was checked."""

    def _check(self, batch: LabeledBatch) -> None:
        classes, width = self.head.shape
        check_unit_rows("features", batch.features)
        if batch.features.shape[1] != width:
            raise ObjectiveError(
                f"got features {tuple(batch.features.shape)}; the head has width {width}"
            )
        check_targets(batch.features, batch.targets)
        _check_range(batch.targets, classes)


def check_positive(**values: float) -> None:
    """Refuse a setting that is not above 0, NaN included.

    Raises:
        ObjectiveError: names the setting.
    """
    for name, value in values.items():
        if not value > 0:
            raise ObjectiveError(f"got {name} {value}; it must be above 0")


def check_fraction(**values: float) -> None:
    """Refuse a setting outside [0, 1], NaN included.

    Raises:
        ObjectiveError: names the setting.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ObjectiveError(f"got {name} {value}; it must lie in [0, 1]")


def check_unit_rows(name: str, rows: Tensor) -> None:
    """Refuse what is not a matrix of unit rows; NaN passes, for the trainer undoes such a step.

    Raises:
        ObjectiveError: not (N, D) with N and D at least 1, or a norm off 1 by more than rounding.
    """
    if rows.ndim != 2 or rows.numel() == 0:
        raise ObjectiveError(
            f"got {name} {tuple(rows.shape)}; expected (N, D) with N and D at least 1"
        )
    off = (rows.detach().float().norm(dim=1) - 1).abs().amax()
    if bool(off > UNIT_TOLERANCE):
        raise ObjectiveError(
            f"a row of the {name} is {off.item():.3g} off norm 1; normalise every row"
        )


def check_targets(rows: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not one integer per row.

    Raises:
        ObjectiveError: rows not (N, ·) with N at least 1, targets not (N,), or not int64.
    """
    if rows.ndim != 2 or rows.shape[0] == 0 or targets.shape != rows.shape[:1]:
        raise ObjectiveError(
            f"got {tuple(rows.shape)} and targets {tuple(targets.shape)}; expected (N, ·) and (N,) "
            "with N at least 1"
        )
    if targets.dtype != torch.int64:
        raise ObjectiveError(f"got targets of type {targets.dtype}; expected torch.int64")


def check_labels(logits: Tensor, targets: Tensor) -> None:
    """Refuse targets that name no column of the logits.

    Raises:
        ObjectiveError: as `check_targets`, or a target outside [0, C).
    """
    check_targets(logits, targets)
    _check_range(targets, logits.shape[1])


def teacher_features(batch: LabeledBatch) -> Tensor:
    """(N, D), the teacher's features of a batch, without gradient.

    Raises:
        ObjectiveError: there are none, or not one unit row per sample.
    """
    teacher = batch.teacher_features
    if teacher is None:
        raise ObjectiveError("this objective needs the teacher's features; the batch has none")
    if teacher.shape != batch.features.shape:
        raise ObjectiveError(
            f"got teacher's features {tuple(teacher.shape)}; expected {tuple(batch.features.shape)}"
        )
    check_unit_rows("teacher's features", teacher)
    return teacher.detach()


def _check_range(targets: Tensor, classes: int) -> None:
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ObjectiveError(f"got targets from {low} to {high}; expected [0, {classes})")
