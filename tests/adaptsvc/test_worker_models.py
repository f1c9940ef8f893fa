"""Claims about the models of a worker: whole ones, zero-shot ones, and those for other classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from adaptsvc.bootstrap import prepare
from adaptsvc.config import Settings
from adaptsvc.learner import Learner
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import build
from adaptsvc.types import Float32
from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.worker_bench import VIT, Bench, drain, pictures, teaching


def torch_answers(bench: Bench, version: int) -> Float32:
    """Embeddings of four pictures by a CLIP loaded anew, with what the store has of a version."""
    ready = prepare(bench.settings)
    learner, found = Learner(ready.clip, ready.prompt, ready.encoder), ready.store.load(version)
    learner.load(found, ready.store.base(found.manifest.base).tuned())
    embeddings: Float32 = learner.tower.embed(torch.from_numpy(four_pictures())).numpy()
    return embeddings


def four_pictures() -> Any:
    return np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)


def served_answers(bench: Bench, version: int) -> Float32:
    """The same by ONNX Runtime, as another process would serve them."""
    store = VersionStore(bench.settings.store)
    found = store.load(version)
    return build(store.base(found.manifest.base), found, Runtime()).encoder.embed(four_pictures())


def test_a_whole_model_is_served_learned_on_and_found_again_after_a_restart(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    settings = teaching(
        prepared,
        tune={"trained": "last-block"},
        learn={"learning_rate": 0.0, "context_learning_rate": 0.0},
    )
    bench = Bench(settings)
    bench.teach(16)
    drain(bench.worker)
    zero, one = (bench.ready.store.manifest(version) for version in (0, 1))
    assert one.base != zero.base
    np.testing.assert_allclose(served_answers(bench, 1), torch_answers(bench, 1), atol=1e-4)
    assert np.abs(served_answers(bench, 1) - served_answers(bench, 0)).max() > 1e-3
    bench.restart()
    assert bench.serving == 1, "the version for these classes and this model goes on serving"
    bench.send(pictures(png, 16))
    drain(bench.worker)
    two = bench.ready.store.manifest(2)
    assert (two.method, two.parent, two.base) == ("ueo", 1, one.base)
    np.testing.assert_allclose(served_answers(bench, 2), served_answers(bench, 1), atol=1e-5)


@VIT
def test_after_a_restart_zero_shot_is_still_the_model_nothing_was_learned_for(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    bench = Bench(teaching(prepared, tune={"trained": "last-block"}))
    learner = bench.worker._parts.learner
    before = learner.zero_shot(four_pictures(), 1.0)[0]
    bench.teach(16)
    drain(bench.worker)
    bench.restart()
    after = bench.worker._parts.learner.zero_shot(four_pictures(), 1.0)[0]
    np.testing.assert_allclose(after, before, atol=1e-6)


@VIT
def test_a_worker_whose_class_names_changed_starts_again(prepared: Settings) -> None:
    bench = Bench(teaching(prepared))
    bench.teach(16)
    drain(bench.worker)
    bench.settings = bench.settings.model_copy(update={"classes": ("cat", "dog", "lorry")})
    bench.restart()
    assert bench.ready.store.manifest(bench.serving or 0).classes == ("cat", "dog", "lorry")
