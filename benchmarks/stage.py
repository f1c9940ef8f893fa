"""What the other benchmarks measure on; it needs torch, so they run it as a process of its own.

`python -m benchmarks.stage HOME`: a home as the worker prepares it, versions that differ in their norm
parameters and class embeddings, and beside it ``folded.onnx``: the same tower as torch exports it by
default. ``vit`` is open_clip's ViT-B-32 with random weights, ``lite`` the bundled model; the tiny ones
are random too, for what does not depend on the size.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.factory import get_model_config
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file

from adaptsvc import config
from adaptsvc.bootstrap import Ready, prepare
from adaptsvc.clip.export import ImageTower, export_tuned, swappable
from adaptsvc.config import Settings
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.serving.predictor import describe_self_test
from adaptsvc.types import Float32
from adaptsvc.versions.base import Base
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Draft
from benchmarks.homes import FOLDED, FOLDED_TOO, VERSIONS, WHOLE

ARCHITECTURE = "ViT-B-32"
TINY_SIDE = 32
TINY_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TINY = {
    "tiny-vit": {
        "image_size": TINY_SIDE,
        "width": 64,
        "layers": 2,
        "patch_size": 8,
        "head_width": 32,
    },
    "tiny-resnet": {"image_size": TINY_SIDE, "width": 16, "layers": [1, 1, 1, 1], "head_width": 32},
}
CHANGE = 0.02  # standard deviation of the versions' change, relative


def main() -> None:
    """Make it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage", description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--model", choices=("lite", "vit", *TINY), default="lite")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument(VERSIONS, type=int, default=0, help="besides the zero-shot one")
    parser.add_argument(FOLDED_TOO, action="store_true")
    parser.add_argument(WHOLE, action="store_true", help="every version has a base of its own")
    args = parser.parse_args()
    torch.manual_seed(0)
    name = "lite" if args.model == "lite" else random_clip(args.home / "model", args.model)
    classes = tuple(f"thing {number}" for number in range(args.classes))
    settings = config.read(home=args.home, model=name, classes=classes)
    ready = prepare(settings)
    for seed in range(args.versions):
        publish_variant(ready, settings, np.random.default_rng(seed), whole=args.whole)
    if args.folded:
        export_folded(ready, args.home / FOLDED)


def random_clip(directory: Path, name: str) -> str:
    """A CLIP that knows nothing, as an open_clip model directory; its name."""
    directory.mkdir(parents=True)
    model_cfg = get_model_config(ARCHITECTURE)
    preprocess = asdict(PreprocessCfg())
    if name in TINY:
        model_cfg = {"embed_dim": 32, "vision_cfg": TINY[name], "text_cfg": TINY_TEXT}
        preprocess["size"] = TINY_SIDE
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    model = open_clip.create_model(f"local-dir:{directory}", load_weights=False)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, directory / "open_clip_model.safetensors")
    return f"local-dir:{directory}"


def publish_variant(
    ready: Ready, settings: Settings, rng: np.random.Generator, *, whole: bool
) -> None:
    """A version whose norm parameters (whole: all weights) and class embeddings are a little off."""
    zero_shot = ready.store.load(0)
    base, delta = ready.encoder.base, {}
    if whole:
        base = changed_base(ready, rng)
    else:
        delta = {
            name: _changed(parameter.detach().cpu().numpy(), rng)
            for name, parameter in swappable(ready.clip).items()
        }
    encoder = build_encoder(base, delta, Runtime(), before=ready.encoder)
    self_test, expected = describe_self_test(encoder, settings.learn.seed)
    fields = zero_shot.manifest.model_dump(include=set(Draft.model_fields))
    fields |= {"parent": 0, "method": "ueo", "base": base.digest, "self_test": self_test}
    embeddings = _changed(zero_shot.head.class_embeddings, rng)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    head = Head(embeddings, zero_shot.head.context, expected)
    ready.store.publish(Draft(**fields), delta, head)


def changed_base(ready: Ready, rng: np.random.Generator) -> Base:
    """A base model whose every weight is a little off what it was."""
    with torch.no_grad():
        for parameter in ready.clip.model.visual.parameters():
            parameter.copy_(torch.from_numpy(_changed(parameter.numpy(), rng)))
    return ready.store.add_base(lambda directory: export_tuned(ready.clip, {}, directory))


def export_folded(ready: Ready, path: Path) -> None:
    """The image tower as `torch.onnx.export` writes it when nothing is asked of it."""
    size = ready.clip.preprocess.size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            ImageTower(ready.clip.model.visual).eval(),
            (torch.zeros(2, 3, size, size),),
            path,
            dynamo=True,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )


def _changed(values: Float32, rng: np.random.Generator) -> Float32:
    noise = rng.normal(scale=CHANGE, size=values.shape)
    changed: Float32 = (values * (1 + noise)).astype(np.float32)
    return changed


if __name__ == "__main__":
    main()
