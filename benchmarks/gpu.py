"""What an NVIDIA GPU gives the service: `python -m benchmarks.gpu`. It needs one, and `adaptsvc[learn,cuda]`.

For `lite` and for open_clip's ViT-B-32 with random weights: images per second of the service's own encoder
(uint8 pixels in, unit embeddings out, so normalising and both copies are in it) by precision and batch size,
with inputs bound or copied, and how far its embeddings are from float32 on the CPU. Then how long another
delta takes until it has answered once. Everything takes turns within a run; no decoding, no HTTP.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from adaptsvc.clip.export import swappable
from adaptsvc.clip.load import Clip, load
from adaptsvc.clip.parity import gap
from adaptsvc.publishing import ensure_base
from adaptsvc.serve_section import CudaSettings
from adaptsvc.serving.encoder import Encoder, Runtime, build, cuda_options
from adaptsvc.serving.predictor import self_test_input
from adaptsvc.types import Tensors, UInt8
from adaptsvc.versions.base import Base, Precision
from adaptsvc.versions.store import VersionStore
from benchmarks.figures import Figure, publish, ratios
from benchmarks.stage import random_clip

MODELS, BATCHES = ("lite", "vit"), (1, 8, 32, 64)
CALLS, SETTLING, CHECKED = 20, 5, 32
CHANGE = 0.02  # of the norm parameters, relative


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run: a precision, TF32 allowed or not, bound or not."""

    said: str
    precision: Precision
    runtime: Runtime


def ways() -> tuple[Way, ...]:
    """The CPU with all its cores first."""
    exact, fast = (cuda_options(CudaSettings(tf32=tf32)) for tf32 in (False, True))
    bound = Runtime("cuda", options=exact, bind=True)
    return (
        Way("CPU, float32", "float32", Runtime(threads=torch.get_num_threads())),
        Way("float32", "float32", bound),
        Way("float32, not bound", "float32", replace(bound, bind=False)),
        Way("TF32", "float32", replace(bound, options=fast)),
        Way("float16", "float16", bound),
    )


def rate(encoder: Encoder, pixels: UInt8, calls: int) -> float:
    """Images per second; an answer is in the CPU's memory when it counts."""
    started = time.perf_counter()
    for _ in range(calls):
        encoder.embed(pixels)
    return calls * len(pixels) / (time.perf_counter() - started)


def pixels_of(base: Base, images: int) -> UInt8:
    """Blocks of colour."""
    return self_test_input(0, images, base.preprocess.size)


def measure(name: str, clip: Clip, bases: dict[Precision, Base], runs: int) -> Iterator[Figure]:
    """The lines of one model."""
    encoders = {way.said: build(bases[way.precision], {}, way.runtime) for way in ways()}
    expected = encoders["CPU, float32"].embed(pixels_of(bases["float32"], CHECKED))
    for batch in BATCHES:
        pixels = pixels_of(bases["float32"], batch)
        found: dict[str, list[float]] = {said: [] for said in encoders}
        for encoder in encoders.values():
            rate(encoder, pixels, SETTLING)
        for _ in range(runs):
            for said, encoder in encoders.items():
                found[said].append(rate(encoder, pixels, 3 if said.startswith("CPU") else CALLS))
        for said, rates in found.items():
            yield Figure(f"{name}, batch {batch}: {said}", rates, "images/s")
        exact = found["float32"]
        for said in list(encoders)[2:]:
            yield Figure(
                f"{name}, batch {batch}: {said} / float32", ratios(found[said], exact), "x"
            )
    for said, encoder in list(encoders.items())[1:]:
        apart = gap(expected, encoder.embed(pixels_of(bases["float32"], CHECKED)))
        yield Figure(f"{name}: {said}, largest error", [1e3 * apart.error], "e-3")
        yield Figure(f"{name}: {said}, 1 - smallest cosine", [1e6 * (1 - apart.cosine)], "e-6")
    yield from swaps(name, clip, bases, encoders, runs)


def swaps(
    name: str, clip: Clip, bases: dict[Precision, Base], encoders: dict[str, Encoder], runs: int
) -> Iterator[Figure]:
    """How long another delta takes until it has answered once."""
    for way in ways()[1:]:
        if "float16" not in way.said and way.said != "float32":
            continue
        base, before, took = bases[way.precision], encoders[way.said], []
        for seed in range(runs + 1):
            delta = shaken(clip, seed)
            started = time.perf_counter()
            after = build(base, delta, way.runtime, before=before)
            after.embed(pixels_of(base, 1))
            took.append(1000 * (time.perf_counter() - started))
        yield Figure(f"{name}: {way.said}, a delta in place ({base.swap})", took[1:], "ms")


def shaken(clip: Clip, seed: int) -> Tensors:
    """Norm parameters a little off."""
    rng = np.random.default_rng(seed)
    return {
        name: (parameter.numpy() * (1 + rng.normal(0, CHANGE, parameter.shape))).astype(np.float32)
        for name, parameter in swappable(clip).items()
    }


def lines(names: Sequence[str], runs: int) -> Iterator[Figure]:
    """The lines of all models."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = "lite" if name == "lite" else random_clip(Path(folder) / "model", name)
            clip, store = load(path), VersionStore(Path(folder) / "store")
            precisions: tuple[Precision, ...] = ("float32", "float16")
            bases = {precision: ensure_base(clip, store, precision) for precision in precisions}
            yield from measure(name, clip, bases, runs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; run it where there is one")
    found = list(lines(options.models, options.runs))
    publish(f"gpu: {torch.cuda.get_device_name()}", found, options.json)


if __name__ == "__main__":
    main()
