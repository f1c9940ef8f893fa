"""Claims about the bundled CLIP as it lies in the repository, and about the pure parts of its recipe."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from PIL import Image  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from adaptsvc.clip.lite import DIRECTORY  # noqa: E402
from adaptsvc.clip.lite.recipe import student, teacher  # noqa: E402
from adaptsvc.clip.lite.recipe.lesson import IMAGENET_NAMES, PROMPT, TEMPLATES, plan  # noqa: E402
from adaptsvc.clip.lite.recipe.nouns import Noun, read_nouns  # noqa: E402
from adaptsvc.clip.lite.recipe.train import Lesson, Schedule, batches, ranking_loss, text_parameters  # noqa: E402

SOURCE = f"local-dir:{DIRECTORY}"
CONFIG = DIRECTORY / "open_clip_config.json"
WEIGHTS = DIRECTORY / "open_clip_model.safetensors"
EVERYDAY = {
    "puppy": "dog",
    "kitten": "cat",
    "taxi": "car",
    "mountain bike": "bicycle",
    "rowing boat": "ship",
    "sparrow": "bird",
    "salmon": "fish",
    "armchair": "sofa",
    "banana": "fruit",
    "laptop": "computer",
    "boots": "shoe",
    "violin": "guitar",
    "stallion": "horse",
    "cottage": "house",
}


@pytest.fixture(scope="module")
def lite() -> Any:
    """The model, loaded once with every socket refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _refuse)
        model, _, preprocess = open_clip.create_model_and_transforms(SOURCE)
        return model.eval(), preprocess, open_clip.get_tokenizer(SOURCE)


def _refuse(*_: object) -> None:
    message = "lite must load without a network"
    raise AssertionError(message)


def text_vectors(lite: Any, names: list[str]) -> Any:  # (N, D) unit
    model, _, tokenizer = lite
    with torch.inference_mode():
        tokens = tokenizer([f"a photo of a {name}." for name in names])
        return model.encode_text(tokens, normalize=True)


def test_config_and_weights_together_stay_under_30_mb() -> None:
    assert CONFIG.stat().st_size + WEIGHTS.stat().st_size < 30_000_000


def test_weights_are_stored_small_and_loaded_in_single_precision(lite: Any) -> None:
    with safe_open(WEIGHTS, framework="pt") as file:
        stored = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert stored.pop("token_embedding.weight") == "F8_E4M3"
    assert set(stored.values()) == {"F16", "I64"}
    assert {parameter.dtype for parameter in lite[0].parameters()} == {torch.float32}


def test_every_stored_weight_is_finite() -> None:
    assert all(torch.isfinite(tensor.float()).all() for tensor in load_file(WEIGHTS).values())


def test_preprocessing_travels_with_the_weights() -> None:
    preprocess = json.loads(CONFIG.read_text())["preprocess_cfg"]
    assert preprocess["size"] == 160
    assert preprocess["mean"] == pytest.approx([127 / 255] * 3)
    assert preprocess["std"] == pytest.approx([128 / 255] * 3)
    assert (preprocess["interpolation"], preprocess["resize_mode"]) == ("bicubic", "shortest")


def test_an_image_becomes_a_unit_vector_of_the_joint_space(lite: Any) -> None:
    model, preprocess, _ = lite
    noise = np.random.default_rng(0).integers(0, 256, (200, 320, 3), dtype=np.uint8)
    pixels = preprocess(Image.fromarray(noise))
    with torch.inference_mode():
        embedding = model.encode_image(pixels[None], normalize=True)
    assert pixels.shape == (3, 160, 160)
    assert embedding.shape == (1, 512)
    assert embedding.norm().item() == pytest.approx(1, abs=1e-5)


def test_text_becomes_a_unit_vector_of_the_joint_space(lite: Any) -> None:
    vectors = text_vectors(lite, ["dog", "a very long name of a thing " * 9])
    assert vectors.shape == (2, 512)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_the_context_holds_four_more_tokens_than_the_longest_imagenet_prompt(lite: Any) -> None:
    model, _, tokenizer = lite
    tokens = tokenizer([f"a photo of a {name}." for name in IMAGENET_NAMES])
    longest = int((tokens != 0).sum(1).max())
    assert longest + 4 <= model.context_length


def test_the_projection_sends_the_imagenet_mean_feature_to_zero(lite: Any) -> None:
    projection = lite[0].visual.head.proj
    mean = torch.from_numpy(np.load(DIRECTORY / "imagenet_mean_feature.npy"))
    assert projection(mean).norm() < 2e-3 * projection.weight.mv(mean).norm()


@pytest.mark.parametrize(("name", "expected"), EVERYDAY.items())
def test_an_everyday_name_lies_nearest_its_own_kind(lite: Any, name: str, expected: str) -> None:
    kinds = list(EVERYDAY.values())
    nearest = (text_vectors(lite, [name]) @ text_vectors(lite, kinds).T).argmax().item()
    assert kinds[nearest] == expected


def test_imagenet_names_are_told_apart(lite: Any) -> None:
    vectors = text_vectors(lite, list(IMAGENET_NAMES[:200]))
    likeness = vectors @ vectors.T - 2 * torch.eye(200)
    assert likeness.max() < 0.999
    assert likeness[likeness > -1].mean() < 0.3


def test_the_shared_opening_changes_neither_value_nor_gradient() -> None:
    model = open_clip.create_model(SOURCE)
    phrases = student.tokenize(["dog", "fire engine"], [PROMPT])
    tokens = open_clip.get_tokenizer(SOURCE)([PROMPT.format(n) for n in ("dog", "fire engine")])
    weight = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    fast = student.encode(model, *phrases.join([0, 1], 0))
    plain = model.encode_text(tokens, normalize=True)
    parameters = text_parameters(model)
    assert torch.allclose(fast, plain, atol=1e-5)
    for a, b in zip(
        gradients(fast, weight, parameters), gradients(plain, weight, parameters), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-3)


def gradients(output: Any, weight: Any, parameters: list[Any]) -> list[Any]:
    return list(torch.autograd.grad((output * weight).sum(), parameters))


def test_joined_phrases_are_what_the_tokenizer_makes() -> None:
    tokenizer = open_clip.get_tokenizer(SOURCE)
    phrases = student.tokenize(["Fire engine", "T-shirt"], list(TEMPLATES))
    for name, text in enumerate(["Fire engine", "T-shirt"]):
        for index, template in enumerate(TEMPLATES):
            opening, rest = phrases.join([name], index)
            joined = [*opening.tolist(), *rest[0].tolist()]
            assert joined == tokenizer([template.format(text)])[0, : len(joined)].tolist()


def test_nouns_leave_out_instances_abstractions_and_unused_scene_words(tmp_path: Path) -> None:
    lines = [
        "  1 licence text",
        "00000001 05 n 02 dog 0 domestic_dog 0 001 @ 00000009 n 0000 | a pet",
        "00000002 18 n 01 Einstein 0 001 @i 00000009 n 0000 | a physicist",
        "00000003 03 n 01 entity 0 000 | anything",
        "00000004 15 n 02 beach 0 strand 0 000 | a shore",
    ]
    (tmp_path / "data.noun").write_text("\n".join(lines), encoding="latin-1")
    (tmp_path / "cntlist.rev").write_text(
        "dog%1:05:00:: 1 7\nbeach%1:15:00:: 1 2\nstrand%2:1 1 9\n"
    )
    assert read_nouns(tmp_path) == (Noun("dog", 7), Noun("beach", 2), Noun("domestic dog", 0))


def test_held_out_classes_are_taught_under_no_other_entry() -> None:
    nouns = [Noun(name.lower(), 1) for name in IMAGENET_NAMES]
    nouns += [Noun(f"thing {index}", index % 2) for index in range(3000)]
    syllabus = plan(nouns, seed=0)
    held_out = {IMAGENET_NAMES[index].lower() for index in syllabus.held_out_classes}
    taught = zip(syllabus.names[1000:], syllabus.taught[1000:], strict=True)
    assert len(syllabus.held_out_classes) == 100
    assert not held_out & {name.lower() for name, times in taught if times}


def test_an_epoch_meets_every_name_as_often_as_the_lesson_says() -> None:
    phrases = student.tokenize(["dog", "cat", "bird"], ["{}"])
    lesson = Lesson(phrases, torch.eye(3), torch.eye(3), np.array([2, 0, 3]), np.array([1.0]))
    targets = torch.cat([targets for _, _, targets in batches(lesson, np.random.default_rng(0))])
    assert targets.sum(0).tolist() == [2, 0, 3]


def test_teacher_at_one_anchor_is_its_target_and_far_away_still_a_unit_vector() -> None:
    oracle = teacher.fit(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert torch.allclose(oracle(torch.eye(2)), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert teacher.kernel(torch.eye(2), torch.eye(2))[0, 1] == pytest.approx(np.exp(-8))


def test_the_learning_rate_rises_once_and_ends_at_zero() -> None:
    schedule = Schedule(epochs=1, peak=1.0, warmup=0.25)
    rates = [schedule.rate(progress) for progress in (0.0, 0.125, 0.25, 0.625, 1.0)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_the_ranking_loss_is_zero_at_the_teacher_and_the_divergence_elsewhere() -> None:
    rows = torch.eye(2)
    teacher_says, student_says = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    swapped = 15 * (1 - 2 / (1 + np.exp(15)))
    assert ranking_loss(teacher_says, teacher_says, rows).item() == pytest.approx(0, abs=1e-6)
    assert ranking_loss(student_says, teacher_says, rows).item() == pytest.approx(swapped, rel=1e-5)
