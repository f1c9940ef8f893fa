"""One version, ready to answer: an encoder, the head, the temperature and the OOD rule. Thread-safe.

It knows nothing of HTTP, of other versions, or of which version should serve.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from adaptsvc.errors import SelfTestError, VersionCorruptError
from adaptsvc.serving.encoder import Encoder, Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.trust import ood
from adaptsvc.trust.calibration import softmax
from adaptsvc.types import Answer, ClassProbability, Float32, Float64, Prediction, UInt8
from adaptsvc.versions.base import Base, Precision
from adaptsvc.versions.delta import Head, check_names
from adaptsvc.versions.manifest import Manifest, SelfTest
from adaptsvc.versions.store import Version

SELF_TEST_IMAGES, SELF_TEST_GRID = 1, 8
SELF_TEST_TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "float16": 1e-2}


class Predictor:
    """A version ready to answer. Use `build`."""

    def __init__(self, encoder: Encoder, version: Version) -> None:
        self.encoder = encoder
        self.version = version

    @property
    def manifest(self) -> Manifest:
        """What the version says of itself."""
        return self.version.manifest

    @property
    def base(self) -> Base:
        """The base model under it."""
        return self.encoder.base

    def answer(self, pixels: UInt8, top_k: int) -> Answer:
        """Classify images (N, 3, H, W); `top_k` classes each."""
        return self.interpret(self.encoder.embed(pixels), top_k)

    def interpret(self, embeddings: Float32, top_k: int) -> Answer:
        """Classify images by their unit embeddings (N, D); `top_k` classes each."""
        probabilities, scores = self.scores(embeddings)
        predictions = tuple(
            self._prediction(p, float(score), top_k)
            for p, score in zip(probabilities, scores, strict=True)
        )
        return Answer(self.manifest.id, predictions)

    def scores(self, embeddings: Float32) -> tuple[Float64, Float64]:
        """Calibrated probabilities (N, C) and OOD scores (N,) of unit embeddings (N, D)."""
        logits = logits_of(
            embeddings, self.version.head.class_embeddings, self.manifest.logit_scale
        )
        scores = ood.SCORES[self.manifest.ood.score](logits, self.manifest.logit_scale)  # (N,)
        return softmax(logits, self.manifest.calibration.temperature), scores

    def warm(self, batches: Sequence[int]) -> None:
        """Run once with so many images each: the first call of a shape pays for its memory."""
        for images in batches:
            self.encoder.embed(
                self_test_input(self.manifest.self_test.seed, images, self.base.preprocess.size)
            )

    def self_test(self) -> None:
        """Run the manifest's self-test.

        Raises:
            SelfTestError: the outputs are not those the version was published with.
        """
        test = self.manifest.self_test
        pixels = self_test_input(test.seed, test.images, self.base.preprocess.size)
        if (found := _digest(pixels)) != test.input_sha256:
            raise SelfTestError(
                f"the self-test input of version {self.manifest.id} gives {found[:12]}, the manifest "
                f"says {test.input_sha256[:12]}; this numpy draws other numbers",
                self.manifest.id,
            )
        expected = self.version.head.self_test_embeddings
        error = float(np.abs(self.encoder.embed(pixels) - expected).max())
        if not error <= test.tolerance:  # also true for NaN
            raise SelfTestError(
                f"version {self.manifest.id} answers its self-test {error:.2g} away from what it was "
                f"published with, {test.tolerance:.2g} is allowed; activate another version",
                self.manifest.id,
            )

    def _prediction(self, probabilities: Float64, score: float, top_k: int) -> Prediction:
        classes, threshold = self.manifest.classes, self.manifest.ood.threshold
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        top = tuple(ClassProbability(classes[k], float(probabilities[k])) for k in best)
        return Prediction(
            label=top[0].label,
            confidence=top[0].probability,
            top=top,
            ood_score=score,
            is_ood=None if threshold is None else score > threshold,
        )


def build(
    base: Base, version: Version, runtime: Runtime, *, before: Predictor | None = None
) -> Predictor:
    """Make a version ready to answer.

    Args:
        base: the base model the version is a delta to.
        version: what to run.
        runtime: where to run it.
        before: a predictor whose session may be shared.

    Raises:
        ModelError: ONNX Runtime refuses the model, or has not the device asked for.
        VersionCorruptError: the delta or the head does not fit the base.
    """
    check_names(version.delta, base.swappable, version.manifest.id)
    _check_head(version.head, version.manifest)
    encoder_before = None if before is None else before.encoder
    return Predictor(build_encoder(base, version.delta, runtime, before=encoder_before), version)


def logits_of(embeddings: Float32, class_embeddings: Float32, logit_scale: float) -> Float64:
    """s · z · Wᵀ: embeddings (N, D), class embeddings (C, D) -> (N, C)."""
    product: Float64 = (embeddings @ class_embeddings.T).astype(np.float64)
    return product * logit_scale


def self_test_input(seed: int, images: int, size: int) -> UInt8:
    """Images (N, 3, size, size) uint8 of coloured blocks, the same on every machine."""
    blocks = np.random.default_rng(seed).integers(
        0, 256, (images, 3, SELF_TEST_GRID, SELF_TEST_GRID), dtype=np.uint8
    )
    step = -(-size // SELF_TEST_GRID)
    return np.ascontiguousarray(blocks.repeat(step, axis=2).repeat(step, axis=3)[..., :size, :size])


def describe_self_test(encoder: Encoder, seed: int) -> tuple[SelfTest, Float32]:
    """The self-test entry of a manifest, and the outputs (N, D) that go into the head."""
    pixels = self_test_input(seed, SELF_TEST_IMAGES, encoder.base.preprocess.size)
    test = SelfTest(
        seed=seed,
        images=SELF_TEST_IMAGES,
        input_sha256=_digest(pixels),
        tolerance=SELF_TEST_TOLERANCES[encoder.base.precision],
    )
    return test, encoder.embed(pixels)


def _digest(pixels: UInt8) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _check_head(head: Head, manifest: Manifest) -> None:
    if len(head.class_embeddings) != len(manifest.classes):
        raise VersionCorruptError(
            f"the head of version {manifest.id} has {len(head.class_embeddings)} classes, the manifest "
            f"names {len(manifest.classes)}; activate another version",
            manifest.id,
        )
