"""The teacher: from the words of a class to the classifier row an image tower would have learnt for it.

Knows vectors only; `sentences.py` makes them from words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

SHARPNESS = 4.0
RIDGE = 1.0


@dataclass(frozen=True, slots=True)
class Teacher:
    """Gaussian-kernel ridge regression from sentence embeddings to classifier rows.

    f(a) = k(a, A) (k(A, A) + ridge I)^-1 Y,  k(a, b) = exp(-SHARPNESS |a - b|^2)

    Reference: Saunders et al., Ridge regression learning algorithm in dual variables, ICML 1998.
    """

    anchors: Tensor  # (N, E) unit sentence embeddings A
    weights: Tensor  # (N, D)

    def __call__(self, sentences: Tensor) -> Tensor:  # (M, E) -> (M, D) unit
        """Give the unit text embedding for each unit sentence embedding."""
        return normalize(kernel(sentences, self.anchors) @ self.weights, dim=1)


def fit(anchors: Tensor, targets: Tensor) -> Teacher:  # (N, E), (N, D)
    """Solve the ridge regression in double precision."""
    gram = kernel(anchors.double(), anchors.double())
    gram += RIDGE * torch.eye(len(gram), dtype=gram.dtype)
    return Teacher(anchors, torch.linalg.solve(gram, targets.double()).float())


def kernel(a: Tensor, b: Tensor) -> Tensor:  # (N, E), (M, E) -> (N, M)
    """Gaussian kernel of unit vectors: |a - b|^2 = 2 - 2 a.b."""
    return torch.exp(-SHARPNESS * (2 - 2 * a @ b.T))
