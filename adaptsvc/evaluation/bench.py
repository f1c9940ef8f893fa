"""What every cell shares: the loaded model, and the pictures of a domain with their zero-shot embeddings.

It knows nothing of methods, settings or figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from adaptsvc.bootstrap import Ready, prepare
from adaptsvc.clip.export import export_tuned
from adaptsvc.config import Settings
from adaptsvc.errors import AdaptsvcError, ImageError
from adaptsvc.evaluation.data import Entry
from adaptsvc.evaluation.split import Indices
from adaptsvc.images import ImageLimits, decode
from adaptsvc.learner import Candidate, Learner
from adaptsvc.serving.encoder import Encoder, Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.types import Float32, UInt8
from adaptsvc.versions.store import Version

BATCH = 32


@dataclass(frozen=True, slots=True)
class Bench:
    """The model, loaded and exported once.

    Attributes:
        ready: CLIP, prompt, base and store.
        learner: bound to the known class names.
        start: the zero-shot version of those names.
        runtime: where candidates answer.
    """

    settings: Settings
    ready: Ready
    learner: Learner
    start: Version
    runtime: Runtime

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Load and export the model of the settings; its store is in `settings.home`.

        Raises:
            ModelError: it cannot be loaded or exported.
        """
        ready = prepare(settings)
        version = ready.pointer.read().version
        assert version is not None  # prepare made sure that one serves
        start = ready.store.load(version)
        runtime = Runtime(settings.serve.device, torch.get_num_threads())
        learner = Learner(ready.clip, ready.prompt, ready.encoder)
        return cls(settings, ready, learner, start, runtime)

    @property
    def model(self) -> str:
        """Both towers: the image tower's fingerprint, and what the text tower makes of the class names."""
        head = hashlib.sha256(self.start.head.class_embeddings.tobytes()).hexdigest()
        return f"{self.ready.clip.fingerprint} {head}"

    def encoder(self, candidate: Candidate) -> Encoder:
        """A candidate's image tower on ONNX Runtime, as the service would run it.

        More than norms changed is a base model of its own, exported from the tower as it is now, so ask
        before the learner loads something else.
        """
        base = self.ready.encoder.base
        if not candidate.tower:
            return build_encoder(base, candidate.delta, self.runtime, before=self.ready.encoder)
        store, clip = self.ready.store, self.ready.clip
        tuned = store.add_base(
            lambda folder: export_tuned(clip, candidate.tower, folder, base.precision)
        )
        try:
            return build_encoder(tuned, candidate.delta, self.runtime)
        finally:
            store.discard_base(tuned.digest)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Decoded images.

    Attributes:
        names: (N,) the class of each.
        pixels: (N, 3, H, W) uint8 at model size.
        embeddings: (N, D) of the frozen image tower.
        skipped: "file: reason" of those that cannot be read.
    """

    names: tuple[str, ...]
    pixels: UInt8
    embeddings: Float32
    skipped: tuple[str, ...]

    def __add__(self, other: Pictures) -> Pictures:
        return Pictures(
            self.names + other.names,
            np.concatenate([self.pixels, other.pixels]),
            np.concatenate([self.embeddings, other.embeddings]),
            self.skipped + other.skipped,
        )


def read_pictures(
    bench: Bench, entries: Sequence[Entry], *, between_images: Callable[[], None]
) -> Pictures:
    """Decode and embed files; those that cannot be read are left out and named.

    Args:
        bench: whose model.
        entries: at least 1.
        between_images: called before each; what it raises ends the reading.

    Raises:
        AdaptsvcError: none can be read.
    """
    preprocess = bench.ready.encoder.base.preprocess
    limits = ImageLimits.of(bench.settings.images)
    pixels = np.empty((len(entries), 3, preprocess.size, preprocess.size), np.uint8)
    names: list[str] = []
    skipped: list[str] = []
    for entry in entries:
        between_images()
        try:
            pixels[len(names)] = decode(entry.file.read_bytes(), preprocess, limits)
        except (OSError, ImageError) as exc:
            skipped.append(f"{entry.file}: {exc}")
        else:
            names.append(entry.name)
    if not names:
        raise AdaptsvcError(f"none of {len(entries)} images can be read; the first: {skipped[0]}")
    pixels = pixels[: len(names)]
    embeddings = embed(bench.ready.encoder, pixels, np.arange(len(names)))
    return Pictures(tuple(names), pixels, embeddings, tuple(skipped))


def embed(encoder: Encoder, pixels: UInt8, index: Indices) -> Float32:
    """Embeddings (M, D) of the images at `index` (M,), in batches."""
    starts = range(0, len(index), BATCH)
    return np.concatenate([encoder.embed(pixels[index[s : s + BATCH]]) for s in starts])
