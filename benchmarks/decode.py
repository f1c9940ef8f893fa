"""Decoding, ours against open_clip's own transform, side by side: `python -m benchmarks.decode`.

Each row is a set of pictures. Both paths go from encoded bytes to the normalised float32 input, one
after the other on each picture, so that a busy machine slows both. A time is the median of five
passes over the set, divided by its size; the spread is the range of the five. Differences are
absolute, in normalised units (0.0143 is one of 255 levels for the CLIP std).
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import perf_counter

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from adaptsvc.images import ImageLimits, Preprocess, decode, normalise
from adaptsvc.types import Float32

PASSES = 5
LIMITS = ImageLimits(max_bytes=64 * 1024 * 1024)
ToInput = Callable[[bytes], Float32]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; times in milliseconds per picture, one per pass."""

    name: str
    plain_ms: list[float]
    ours_ms: list[float]
    mean_difference: float
    worst_mean_difference: float
    max_difference: float

    def __str__(self) -> str:
        plain, ours = median(self.plain_ms), median(self.ours_ms)
        return (
            f"{self.name:<22}{_with_spread(self.plain_ms):>24}{_with_spread(self.ours_ms):>24}"
            f"{plain / ours:>8.2f}{self.mean_difference:>10.5f}"
            f"{self.worst_mean_difference:>12.5f}{self.max_difference:>9.4f}"
        )


HEADING = (
    f"{'pictures':<22}{'open_clip ms':>24}{'adaptsvc ms':>24}"
    f"{'ratio':>8}{'mean |d|':>10}{'worst mean':>12}{'max |d|':>9}"
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode")
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures, searched")
    parser.add_argument("--count", type=int, default=100, help="how many of them, drawn by seed 0")
    parser.add_argument("--size", type=int, default=224, help="side of the model's input")
    args = parser.parse_args()
    torch.set_num_threads(1)
    real = sample(args.images, args.count)
    print(f"size {args.size}, shortest, bicubic; {len(real)} pictures of {args.images}")
    print(HEADING)
    for name, pictures in (("real", real), *synthetic()):
        print(compare(name, pictures, args.size), flush=True)


def sample(folder: Path, count: int) -> list[bytes]:
    """Some pictures of the folder, the same ones every time."""
    suffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    chosen = random.Random(0).sample(paths, min(count, len(paths)))
    return [path.read_bytes() for path in chosen]


def synthetic() -> list[tuple[str, list[bytes]]]:
    """Pictures with the spectrum of a photograph, 1/f, in the sizes cameras and screens make."""
    return [
        ("500x375 JPEG", [photo(500, 375)]),
        ("1920x1080 JPEG", [photo(1920, 1080)]),
        ("4000x3000 JPEG", [photo(4000, 3000)]),
        ("4000x3000 JPEG 4:4:4", [photo(4000, 3000, subsampling=0)]),
        ("4000x3000 progressive", [photo(4000, 3000, progressive=True)]),
        ("1920x1080 PNG", [photo(1920, 1080, "PNG")]),
    ]


def photo(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    """Octaves of noise, each half as strong and twice as fine as the one before."""
    rng = np.random.default_rng(0)
    field = np.full((height, width, 3), 110.0, np.float32)
    for octave in range(2, 11):
        cells = rng.normal(size=(3, 2**octave, 2**octave)).astype(np.float32)
        for channel in range(3):
            noise = Image.fromarray(cells[channel]).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            field[..., channel] += 140 / 2**octave * np.asarray(noise) * 2
    buffer = io.BytesIO()
    pixels = field.clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 90} | options))
    return buffer.getvalue()


def compare(name: str, pictures: Sequence[bytes], size: int) -> Row:
    """Times both paths on the pictures and compares what they give."""
    cfg = PreprocessCfg(size=size)
    preprocess = Preprocess.from_open_clip(asdict(cfg))
    plain = partial(_plain, image_transform_v2(cfg, is_train=False))
    ours = partial(_ours, preprocess)
    differences = [np.abs(plain(data) - ours(data)) for data in pictures]
    means = [float(difference.mean()) for difference in differences]
    times = [_alternate(plain, ours, pictures) for _ in range(PASSES)]
    return Row(
        name,
        plain_ms=[each[0] for each in times],
        ours_ms=[each[1] for each in times],
        mean_difference=mean(means),
        worst_mean_difference=max(means),
        max_difference=max(float(difference.max()) for difference in differences),
    )


def _plain(transform: Callable[[Image.Image], torch.Tensor], data: bytes) -> Float32:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(transform(image).numpy(), np.float32)


def _ours(preprocess: Preprocess, data: bytes) -> Float32:
    return normalise(decode(data, preprocess, LIMITS)[None], preprocess).squeeze(axis=0)


def _alternate(first: ToInput, second: ToInput, pictures: Sequence[bytes]) -> list[float]:
    """Milliseconds per picture of each path, taking turns picture by picture."""
    spent_s = [0.0, 0.0]
    for data in pictures:
        for turn, path in enumerate((first, second)):
            started = perf_counter()
            path(data)
            spent_s[turn] += perf_counter() - started
    return [1000 * seconds / len(pictures) for seconds in spent_s]


def _with_spread(times_ms: Sequence[float]) -> str:
    return f"{median(times_ms):.2f} ({min(times_ms):.2f}-{max(times_ms):.2f})"


if __name__ == "__main__":
    main()
