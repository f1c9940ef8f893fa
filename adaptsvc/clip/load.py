"""Any CLIP open_clip can load, by name; it knows nothing of stores, streams or serving.

Names: ``lite`` (bundled), ``NAME/PRETRAINED`` of open_clip, ``hf-hub:ORG/REPO``, ``local-dir:PATH``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from adaptsvc.clip import lite
from adaptsvc.errors import ModelError
from adaptsvc.images import Preprocess

Tokenizer = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, slots=True)
class Clip:
    """A dual encoder, frozen and in eval mode, with what must travel with its weights.

    Attributes:
        name: as it was asked for.
        model: open_clip's module: `visual`, `encode_image`, `encode_text`.
        tokenizer: strings -> (N, L) int64.
        preprocess: how an image becomes its input.
        logit_scale: s > 0, already exponentiated.
        fingerprint: SHA-256 of the image tower's weights and preprocessing.
    """

    name: str
    model: Any
    tokenizer: Tokenizer
    preprocess: Preprocess
    logit_scale: float
    fingerprint: str


def load(name: str, *, device: str = "cpu") -> Clip:
    """Load a CLIP with its pretrained weights.

    Args:
        name: see the module's docstring.
        device: where torch puts it.

    Raises:
        ModelError: the name is malformed, or the weights cannot be found or read.
    """
    identifier, pretrained = _identifier(name)
    try:
        model = open_clip.create_model(
            identifier, pretrained=pretrained, device=device, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(identifier)
        preprocess = Preprocess.from_open_clip(open_clip.get_model_preprocess_cfg(model))
    except (
        Exception
    ) as exc:  # open_clip raises RuntimeError, ValueError, OSError and those of the hub
        raise ModelError(
            f"the model {name!r} could not be loaded: {exc}; expected 'lite', 'NAME/PRETRAINED' of "
            "open_clip, 'hf-hub:ORG/REPO' or 'local-dir:PATH'; only 'lite' and 'local-dir:' work offline"
        ) from exc
    model.eval().requires_grad_(False)
    return Clip(
        name=name,
        model=model,
        tokenizer=tokenizer,
        preprocess=preprocess,
        logit_scale=float(model.logit_scale.exp()),
        fingerprint=fingerprint(model.visual, preprocess),
    )


def fingerprint(visual: nn.Module, preprocess: Preprocess) -> str:
    """SHA-256 over an image tower's tensors, their names and shapes, and its preprocessing."""
    digest = hashlib.sha256(repr(sorted(preprocess.to_json().items())).encode())
    for name, tensor in sorted(visual.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _identifier(name: str) -> tuple[str, str | None]:
    if name == "lite":
        return f"local-dir:{lite.DIRECTORY}", None
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    architecture, slash, pretrained = name.partition("/")
    if not (architecture and slash and pretrained):
        raise ModelError(
            f"got the model name {name!r}; expected 'lite', 'NAME/PRETRAINED' (for example "
            "'ViT-B-16/laion2b_s34b_b88k'), 'hf-hub:ORG/REPO' or 'local-dir:PATH'"
        )
    return architecture, pretrained


def context_length(tokenizer: Any) -> int:
    """How many tokens one text may have, start and end included."""
    return int(tokenizer.context_length)
