"""Names to models: what is refused, and that what is loaded is frozen and known by its weights."""

from __future__ import annotations

import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptsvc.clip.load import context_length, fingerprint, load
from adaptsvc.errors import ModelError

pytestmark = pytest.mark.usefixtures("no_network")
WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network in these tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", ["", "ViT-B-32", "/openai", "ViT-B-32/", "LITE"])
def test_a_malformed_name_is_refused_with_the_forms_that_are_taken(name: str) -> None:
    with pytest.raises(ModelError, match=re.escape(repr(name))) as refused:
        load(name)
    for form in ("'lite'", "NAME/PRETRAINED", "hf-hub:", "local-dir:"):
        assert form in str(refused.value)


@pytest.mark.parametrize(
    "name", ["no-such-architecture/openai", "ViT-B-32/no-such-weights", "local-dir:/no/such/folder"]
)
def test_what_does_not_exist_is_a_model_error_that_names_it(name: str) -> None:
    with pytest.raises(ModelError, match=f"{re.escape(repr(name))} could not be loaded") as refused:
        load(name)
    assert refused.value.__cause__ is not None


def test_a_folder_without_a_config_is_refused(tiny_vit_directory: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_vit_directory / WEIGHTS, tmp_path)
    with pytest.raises(ModelError, match="config file missing"):
        load(f"local-dir:{tmp_path}")


def test_a_folder_without_weights_is_refused_and_never_random(
    tiny_vit_directory: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_vit_directory / CONFIG, tmp_path)
    with pytest.raises(ModelError, match="could not be loaded"):
        load(f"local-dir:{tmp_path}")


def test_weights_that_are_cut_are_refused(tiny_vit_directory: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_vit_directory / CONFIG, tmp_path)
    data = (tiny_vit_directory / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="could not be loaded"):
        load(f"local-dir:{tmp_path}")


def test_weights_of_another_architecture_are_refused(
    tiny_vit_directory: Path, tiny_resnet_directory: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_vit_directory / CONFIG, tmp_path)
    shutil.copy(tiny_resnet_directory / WEIGHTS, tmp_path)
    with pytest.raises(ModelError, match="could not be loaded"):
        load(f"local-dir:{tmp_path}")


def test_a_model_is_loaded_frozen_and_in_eval_mode(tiny_directory: Path) -> None:
    clip = load(f"local-dir:{tiny_directory}")
    assert not any(module.training for module in clip.model.modules())
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


def test_a_model_brings_its_scale_size_and_context_length(tiny_directory: Path) -> None:
    clip = load(f"local-dir:{tiny_directory}")
    assert clip.logit_scale == pytest.approx(20.0)
    assert clip.preprocess.size == 32
    assert context_length(clip.tokenizer) == 32
    assert clip.tokenizer(["a cat", "a dog"]).shape == (2, 32)


def test_the_same_weights_have_the_same_fingerprint(tiny_directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_directory, tmp_path / "elsewhere")
    first, second = load(f"local-dir:{tiny_directory}"), load(f"local-dir:{copy}")
    assert first.fingerprint == second.fingerprint


def test_the_fingerprint_changes_with_one_weight(tiny_directory: Path) -> None:
    clip = load(f"local-dir:{tiny_directory}")
    with torch.no_grad():
        next(clip.model.visual.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(clip.model.visual, clip.preprocess) != clip.fingerprint


def test_the_fingerprint_changes_with_a_running_statistic(tiny_resnet_directory: Path) -> None:
    clip = load(f"local-dir:{tiny_resnet_directory}")
    clip.model.visual.get_buffer("bn1.running_var")[0] *= 1.5
    assert fingerprint(clip.model.visual, clip.preprocess) != clip.fingerprint


def test_the_fingerprint_changes_with_the_preprocessing(tiny_vit_directory: Path) -> None:
    clip = load(f"local-dir:{tiny_vit_directory}")
    squashed = replace(clip.preprocess, resize_mode="squash")
    assert fingerprint(clip.model.visual, squashed) != clip.fingerprint
