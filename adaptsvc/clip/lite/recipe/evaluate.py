"""How near the student is to the teacher on names it was not taught. Reads no files."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.functional import normalize

from .student import Phrases, encode

CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of one epoch. Accuracies are among all 1000 names; NaN without image features."""

    noun_cosine: float
    held_out_accuracy: float
    accuracy: float


def text_vectors(
    model: CLIP, phrases: Phrases, names: Tensor, *, template: int = 0
) -> Tensor:  # (N,) -> (N, D) unit
    """Encode names under one template."""
    model.eval()
    with torch.inference_mode():
        chunks = [
            encode(model, *phrases.join(chunk.tolist(), template)) for chunk in names.split(CHUNK)
        ]
    return torch.cat(chunks)


def accuracy(
    images: Tensor, texts: Tensor, classes: Tensor
) -> float:  # (N, D), (C, D), (K,) rows of images to count
    """Share of the counted images whose nearest text is their own class; image i shows class i."""
    nearest = (images[classes] @ texts.T).argmax(1)
    return float((nearest == classes).float().mean())


def scale_nll(images: Tensor, texts: Tensor, scale: float) -> float:  # (C, D), (C, D)
    """Mean negative log-likelihood in nats at a logit scale; image i shows class i."""
    return float(
        torch.nn.functional.cross_entropy(scale * images @ texts.T, torch.arange(len(images)))
    )


def project(features: Tensor, projection: Tensor, bias: Tensor) -> Tensor:  # (N, F) -> (N, D) unit
    """Apply the image projection to pooled features."""
    return normalize(features @ projection.T + bias, dim=1)
