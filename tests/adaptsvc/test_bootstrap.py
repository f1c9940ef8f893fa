"""Putting a worker together: what is made is made once, and version 0 stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptsvc.bootstrap import Ready, prepare, zero_shot_predictor
from adaptsvc.clip.prompt import class_embeddings
from adaptsvc.config import Settings
from adaptsvc.errors import ModelError
from adaptsvc.images import ImageLimits, decode
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import build
from adaptsvc.versions.manifest import Draft

pytestmark = pytest.mark.usefixtures("one_thread")
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes seconds; whoever does it although the base is there is told."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(torch.onnx, "export", refuse)


def bases(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.store / "base").iterdir())


def with_classes(settings: Settings, *classes: str) -> Settings:
    return settings.model_copy(update={"classes": classes})


def test_the_first_version_is_zero_shot_and_serves(ready: Ready, prepared: Settings) -> None:
    version = ready.store.load(0)
    assert ready.store.ids() == [0]
    assert ready.pointer.read().version == 0
    assert (version.manifest.parent, version.manifest.method) == (None, "zero-shot")
    assert version.manifest.classes == prepared.classes
    assert version.manifest.calibration.temperature == 1.0
    assert version.manifest.ood.threshold is None
    assert version.delta == {}
    expected = class_embeddings(ready.clip, prepared.classes, prepared.prompt).numpy()
    np.testing.assert_allclose(version.head.class_embeddings, expected, atol=1e-6)


@pytest.mark.usefixtures("no_export")
def test_preparing_twice_exports_and_publishes_once(prepared: Settings) -> None:
    before = bases(prepared)
    first, second = prepare(prepared), prepare(prepared)
    assert bases(prepared) == before
    assert second.store.ids() == [0]
    assert second.pointer.read() == first.pointer.read()
    assert second.encoder.base.digest == first.encoder.base.digest == before[0]


@VIT
@pytest.mark.usefixtures("no_export")
def test_other_classes_publish_a_new_zero_shot_version_over_the_same_base(
    ready: Ready, prepared: Settings
) -> None:
    before = ready.store.load(0)
    after = prepare(with_classes(prepared, "ship", "frog"))
    new = after.store.load(1)
    assert (new.manifest.classes, new.manifest.method) == (("ship", "frog"), "zero-shot")
    assert new.manifest.parent is None
    assert new.head.class_embeddings.shape == (2, 32)
    assert after.pointer.read().version == 1
    assert after.store.ids() == [0, 1]
    assert after.store.manifest(0) == before.manifest
    assert len(bases(prepared)) == 1


@VIT
@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize(
    "changes", [{"classes": ("dog", "cat", "car")}, {"prompt": "a sketch of a {}."}]
)
def test_another_order_or_prompt_is_another_task(
    prepared: Settings, changes: dict[str, Any]
) -> None:
    after = prepare(prepared.model_copy(update=changes))
    assert after.pointer.read().version == 1


@VIT
@pytest.mark.usefixtures("no_export")
def test_a_learned_version_of_the_same_task_goes_on_serving(
    ready: Ready, prepared: Settings
) -> None:
    zero = ready.store.load(0)
    fields = zero.manifest.model_dump(include=set(Draft.model_fields))
    draft = Draft(**{**fields, "parent": 0, "method": "ueo"})
    learned = ready.store.publish(draft, {}, zero.head)
    ready.pointer.compare_and_set(0, learned.id)
    assert prepare(prepared).pointer.read().version == learned.id


@VIT
def test_other_weights_are_another_base_and_version_zero_stays(
    prepared: Settings, tiny_directory: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_directory, tmp_path / "retrained")
    weights = load_file(copy / WEIGHTS)
    save_file({name: tensor * 1.1 for name, tensor in weights.items()}, copy / WEIGHTS)
    after = prepare(prepared.model_copy(update={"model": f"local-dir:{copy}"}))
    zero, one = after.store.manifest(0), after.store.manifest(1)
    assert zero.base != one.base == after.encoder.base.digest
    assert bases(prepared) == sorted([zero.base, one.base])
    assert after.pointer.read().version == 1


@VIT
def test_another_precision_is_another_base_whose_zero_shot_version_serves(
    prepared: Settings,
) -> None:
    serve = prepared.serve.model_copy(update={"precision": "float16"})
    after = prepare(prepared.model_copy(update={"serve": serve}))
    assert after.encoder.base.precision == "float16"
    assert after.pointer.read().version == 1
    zero, one = after.store.load(0), after.store.load(1)
    assert (zero.manifest.self_test.tolerance, one.manifest.self_test.tolerance) == (1e-3, 1e-2)
    for version in (zero, one):
        build(after.store.base(version.manifest.base), version, Runtime()).self_test()
    back = prepare(prepared)  # and the way back needs no export
    assert (back.encoder.base.digest, back.pointer.read().version) == (zero.manifest.base, 2)


@VIT
@pytest.mark.usefixtures("no_export")
def test_a_predictor_for_a_moment_is_not_published(
    ready: Ready, prepared: Settings, png: Callable[..., bytes]
) -> None:
    predictor = zero_shot_predictor(with_classes(prepared, "ship", "frog"))
    pixels = decode(png(0), predictor.base.preprocess, ImageLimits())[None]
    assert predictor.answer(pixels, 2).predictions[0].label in {"ship", "frog"}
    predictor.self_test()
    assert ready.store.ids() == [0]
    assert ready.pointer.read().version == 0


def test_a_model_that_cannot_be_loaded_leaves_no_version(
    tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="nowhere"):
        prepare(settings)
    assert not settings.store.exists()
