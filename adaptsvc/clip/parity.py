"""How far two runtimes' embeddings of the same images are apart, and how far they may be. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaptsvc.types import Float32
from adaptsvc.versions.base import Precision


@dataclass(frozen=True, slots=True)
class Gap:
    """Between unit embeddings of the same images.

    Attributes:
        cosine: the smallest of an image.
        error: the largest of a number.
    """

    cosine: float
    error: float

    def within(self, limits: Gap) -> bool:
        """Whether it is no larger; what is not a number never is."""
        return self.cosine > limits.cosine and self.error < limits.error

    def __str__(self) -> str:
        return f"smallest cosine {self.cosine:.6f}, largest error {self.error:.1g}"


# A delta that was ignored changes small rounds' embeddings by more than float32's error.
LIMITS: dict[Precision, Gap] = {"float32": Gap(0.9999, 1e-4), "float16": Gap(0.999, 1e-2)}


def gap(expected: Float32, found: Float32) -> Gap:
    """Between unit embeddings (N, D) of the same images."""
    cosine = float((expected * found).sum(axis=1).min())
    return Gap(cosine, float(np.abs(expected - found).max()))
