"""A draft, a head and a base model to make versions of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adaptsvc.images import Preprocess
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Calibration, Draft, OodRule, SelfTest

HEX = "0123456789abcdef" * 4
PREPROCESS = Preprocess(
    32, "shortest", "bicubic", (0.48145466, 0.4578275, 0.40821073), (0.5, 0.5, 0.5)
)


def draft(**changes: Any) -> Draft:
    values: dict[str, Any] = {
        "parent": 2,
        "base": HEX,
        "model": "lite",
        "method": "ueo",
        "classes": ("cat", "dog", "żaba"),
        "prompt": "a photo of a {}.",
        "logit_scale": 100.0,
        "calibration": Calibration(temperature=1.25, fitted_on="label-free"),
        "ood": OodRule(score="msp", threshold=0.5, fitted_on="window"),
        "self_test": SelfTest(seed=0, images=2, input_sha256=HEX, tolerance=1e-3),
        "metrics": {"agreement": 0.875},
        "offsets": {"images.unlabeled/0": 41},
        "config": {"passes": 2.0, "nested": {"names": ["a", "b"]}},
        "seed": 7,
    }
    return Draft(**{**values, **changes})


def head() -> Head:
    chance = np.random.default_rng(0)
    shapes = (3, 4), (2, 4), (2, 4)
    first, second, third = (chance.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Head(first, second, third)


def exporter(fingerprint: str = "tower", graph: bytes = b"onnx graph") -> Callable[[Path], None]:
    """What writes the three files of a base model."""

    def export(directory: Path) -> None:
        description = {
            "fingerprint": fingerprint,
            "swap": "feed",
            "swappable": ["norm.bias", "norm.weight"],
            "preprocess": PREPROCESS.to_json(),
        }
        (directory / "model.onnx").write_bytes(graph)
        (directory / "model.data").write_bytes(bytes(range(64)))
        (directory / "preprocess.json").write_text(json.dumps(description))

    return export
