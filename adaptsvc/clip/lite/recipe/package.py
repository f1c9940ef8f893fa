"""The model directory: open_clip's configuration file and the fp16 weights, written whole or not at all.

Knows file formats, and nothing of training.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file

from .student import CONTEXT, HEADS, LAYERS, WIDTH
from .tower import ARCHITECTURE, Tower

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
IMAGE_SIDE = 160
MEAN = 127 / 255
STD = 128 / 255
# Half of all parameters, looked up and never multiplied: 3 bits of mantissa are enough for it.
TYPES = {"token_embedding.weight": torch.float8_e4m3fn}


def configuration(dimensions: int) -> dict[str, object]:
    """Describe the model in open_clip's terms."""
    vision = {
        "timm_model_name": ARCHITECTURE,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        "image_size": IMAGE_SIDE,
    }
    text = {
        "context_length": CONTEXT,
        "vocab_size": 49408,
        "width": WIDTH,
        "heads": HEADS,
        "layers": LAYERS,
    }
    preprocess = {
        "size": IMAGE_SIDE,
        "mode": "RGB",
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    return {
        "model_cfg": {"embed_dim": dimensions, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": preprocess,
    }


def build(directory: Path, tower: Tower) -> CLIP:
    """Write the configuration and build its model: image tower in place, text tower untrained."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(configuration(len(tower.projection)), indent=2) + "\n"
    (directory / CONFIG_NAME).write_text(content, encoding="utf-8")
    model = open_clip.create_model(f"local-dir:{directory}", load_weights=False)
    if not isinstance(model, CLIP):
        message = (
            f"open_clip built {type(model).__name__}, expected CLIP; check the text configuration"
        )
        raise TypeError(message)
    model.visual.trunk.load_state_dict(tower.trunk)
    with torch.no_grad():
        model.visual.head.proj.weight.copy_(tower.projection)
        model.visual.head.proj.bias.copy_(tower.bias)
    return model.eval()


def write_weights(directory: Path, model: CLIP) -> int:
    """Write the weights in half precision, the token table in a quarter, and return the size in bytes.

    Loading gives fp32 again: `load_state_dict` copies whatever type the file holds.
    """
    half = {
        name: t.to(TYPES.get(name, torch.float16)) if t.is_floating_point() else t
        for name, t in model.state_dict().items()
    }
    temporary = directory / (WEIGHTS_NAME + ".part")
    save_file(
        {name: t.contiguous() for name, t in half.items()}, temporary, metadata={"format": "pt"}
    )
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o644)  # safetensors leaves the file to its owner alone
    os.replace(temporary, directory / WEIGHTS_NAME)
    return (directory / WEIGHTS_NAME).stat().st_size
