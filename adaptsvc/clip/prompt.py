"""Class names to class embeddings, with a shared prompt context that can be learned (the CoOp layout).

It knows nothing of images, objectives or files. The context is the word embeddings of the template before
``{}``; it takes the place of those rows in the text tower's embedding output, so any open_clip text tower
works unchanged.

Reference: Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptsvc.adapt.adapter import unit
from adaptsvc.clip.load import Clip, Tokenizer, context_length
from adaptsvc.clip.text import encode_text
from adaptsvc.errors import ModelError
from adaptsvc.types import Float32, Task

TEXT_BATCH = 256


class Prompt(nn.Module):
    """One template and the class names it is filled with.

    Args:
        clip: whose text tower encodes.
        class_names: C names, distinct.
        template: holds ``{}`` once; the words before it become the context.

    Raises:
        ModelError: a template without ``{}``, repeated or empty names, or a text too long.
    """

    def __init__(self, clip: Clip, class_names: Sequence[str], template: str) -> None:
        super().__init__()
        _check(class_names, template)
        self.task = Task(tuple(class_names), template)
        self._model: list[Any] = [clip.model]  # in a list: its parameters are not this module's
        self._embedding = [_token_embedding(clip.model)]
        texts = [template.format(name) for name in class_names]
        tokens = clip.tokenizer(texts)  # (C, L)
        size = _context_size(clip.tokenizer, template.partition("{}")[0], tokens)
        _check_fits(clip, texts)
        self.register_buffer("tokens", tokens.to(next(self._embedding[0].parameters()).device))
        with torch.no_grad():
            rows = self._embedding[0](self.tokens[0, 1 : 1 + size])
        self.context = nn.Parameter(rows.clone())  # (M, W)

    tokens: Tensor

    def forward(self) -> Tensor:
        """Class embeddings (C, D), unit norm, differentiable in `context`."""
        size = self.context.shape[0]

        def splice(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:  # (C, L, W)
            context = self.context.expand(output.shape[0], -1, -1).to(output.dtype)
            return torch.cat([output[:, :1], context, output[:, 1 + size :]], dim=1)

        handle = self._embedding[0].register_forward_hook(splice)
        try:
            parts = [encode_text(self._model[0], t) for t in self.tokens.split(TEXT_BATCH)]
        finally:
            handle.remove()
        return unit(torch.cat(parts))

    def values(self) -> tuple[Float32, Float32]:
        """Class embeddings (C, D) and context (M, W) as they are now."""
        with torch.no_grad():
            return self().cpu().numpy(), self.context.detach().cpu().numpy()


def class_embeddings(clip: Clip, class_names: Sequence[str], template: str) -> Tensor:
    """Zero-shot class embeddings (C, D), unit norm, without gradients."""
    with torch.no_grad():
        embeddings: Tensor = Prompt(clip, class_names, template)()
        return embeddings


def _token_embedding(model: Any) -> nn.Module:
    """The layer that turns token ids into word embeddings, wherever the text tower keeps it."""
    text = getattr(model, "text", model)
    if isinstance(getattr(text, "token_embedding", None), nn.Module):
        layer: nn.Module = text.token_embedding
        return layer
    if hasattr(getattr(text, "transformer", None), "get_input_embeddings"):
        layer = text.transformer.get_input_embeddings()
        return layer
    raise ModelError(
        f"the text tower {type(text).__name__} has no token embedding we know of; expected open_clip's "
        "own text transformer or a Hugging Face one"
    )


def _context_size(tokenizer: Tokenizer, prefix: str, tokens: Tensor) -> int:
    """How many tokens after the first are the template's words before the class name."""
    probe = tokenizer([prefix])[0]
    differs = (tokens != probe).any(dim=0).nonzero()
    size = int(differs[0]) - 1 if len(differs) else 0
    if size < 1:
        raise ModelError(
            f"got a template that starts {prefix!r}; expected at least one word before '{{}}', as in "
            "'a photo of a {}.', because those words are the context that is learned"
        )
    return size


def _check(class_names: Sequence[str], template: str) -> None:
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ModelError(f"got the template {template!r}; expected one '{{}}' for the class name")
    blank = [name for name in class_names if not name.strip()]
    repeated = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if blank or repeated or len(class_names) < 2:
        raise ModelError(
            f"got {len(class_names)} class names, {len(blank)} of them empty, repeated: {repeated}; "
            "expected at least 2 different names"
        )


def _check_fits(clip: Clip, texts: Sequence[str]) -> None:
    """Refuse texts that the tokenizer would cut: two names cut alike would be one class."""
    limit = context_length(clip.tokenizer)
    encode = getattr(clip.tokenizer, "encode", None)
    if encode is None:  # Hugging Face tokenizers do not count for us
        return
    for text in texts:
        if (length := len(encode(text)) + 2) > limit:
            raise ModelError(
                f"the text {text!r} has {length} tokens, the text tower of {clip.name} takes {limit}; "
                "shorten the class name or the template"
            )
