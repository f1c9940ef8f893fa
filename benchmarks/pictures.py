"""JPEGs to send: noise with the spectrum of a photograph, or the files of a folder. Numpy and Pillow only."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, QUALITY = 500, 375, 90
OCTAVES, FALL = range(2, 10), 1.7  # about 40 kB each


def pictures(folder: Path | None, count: int) -> list[bytes]:
    """`count` encoded pictures, the same ones every time."""
    if folder is None:
        return [photo(seed) for seed in range(count)]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
    if not paths:
        raise SystemExit(f"{folder} holds no .jpg or .jpeg file")
    return [path.read_bytes() for path in random.Random(0).sample(paths, min(count, len(paths)))]


def photo(seed: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A JPEG of smooth areas with texture: octaves of noise, each weaker and twice as fine."""
    rng = np.random.default_rng(seed)
    field = np.full((height, width, 3), 110.0, np.float32)
    for octave in OCTAVES:
        cells = rng.normal(size=(3, 2**octave, 2**octave)).astype(np.float32)
        for channel in range(3):
            noise = Image.fromarray(cells[channel]).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            field[..., channel] += 200 / FALL**octave * np.asarray(noise)
    buffer = io.BytesIO()
    Image.fromarray(field.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
