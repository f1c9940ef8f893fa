"""The text tower on as many tokens as the texts have; it knows nothing of prompts or classes.

A context of 32 or 77 tokens is mostly padding behind a class name. In a causal tower nothing after the end
of a text reaches its embedding, so leaving that out changes nothing but the time.
"""

from __future__ import annotations

from typing import Any

import open_clip
from open_clip.transformer import TextTransformer
from torch import Tensor
from torch.func import functional_call


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """Text embeddings (C, D) of tokens (C, L), of any length, differentiable.

    Args:
        model: open_clip's.
        tokens: as its tokenizer gives them.
    """
    holder: Any = model if isinstance(model, open_clip.CLIP) else getattr(model, "text", None)
    length = int(tokens.argmax(dim=-1).max()) + 1  # the end of a text has the highest id
    if length >= tokens.shape[1] or not _ends_count(holder):
        embeddings: Tensor = model.encode_text(tokens)
        return embeddings
    shortened = {
        "positional_embedding": holder.positional_embedding[:length],
        "attn_mask": holder.attn_mask[:length, :length],
    }
    inputs = (None, tokens[:, :length]) if holder is model else (tokens[:, :length],)
    output: Any = functional_call(holder, shortened, inputs)
    if isinstance(output, dict):
        output = output["text_features"]
    elif isinstance(output, tuple):  # (image, text, …) of a model, (text, tokens) of a tower
        output = output[1 if holder is model else 0]
    embeddings = output
    return embeddings


def _ends_count(holder: Any) -> bool:
    """Whether a text's embedding is read at its end and sees only what comes before."""
    if isinstance(holder, open_clip.CLIP):
        return holder.attn_mask is not None and holder.text_pool_type == "argmax"
    if isinstance(holder, TextTransformer):
        causal = holder.attn_mask is not None and holder.cls_emb is None
        return causal and holder.pool_type == "argmax"
    return False
