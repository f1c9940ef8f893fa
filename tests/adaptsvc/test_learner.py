"""One round of learning: what it changes, what it repeats, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import Ready
from adaptsvc.clip.export import swappable
from adaptsvc.clip.load import load
from adaptsvc.clip.prompt import Prompt
from adaptsvc.clip.tower import Tower, moved
from adaptsvc.config import Settings
from adaptsvc.errors import NonFiniteStepError, ParityError
from adaptsvc.learner import Candidate, Learner, autocast
from adaptsvc.publishing import ensure_base
from adaptsvc.sections import LearnSettings
from adaptsvc.serving.encoder import Runtime, build
from adaptsvc.types import Tensors
from adaptsvc.versions.delta import Head
from adaptsvc.versions.store import Version, VersionStore

pytestmark = pytest.mark.usefixtures("one_thread")
Samples = tuple[Sample, ...]
FAST: dict[str, Any] = {
    "batch_images": 8,
    "passes": 2.0,
    "learning_rate": 0.01,
    "context_learning_rate": 0.01,
}
STILL: dict[str, Any] = {**FAST, "learning_rate": 0.0, "context_learning_rate": 0.0}
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)


def learn(learner: Learner, window: Samples, seed: int = 0, **settings: Any) -> Candidate:
    chosen = LearnSettings(**{**FAST, **settings})
    return learner.learn(window, chosen, seed, between_steps=lambda: None)


def initial(ready: Ready) -> Tensors:
    return {name: p.detach().numpy().copy() for name, p in swappable(ready.clip).items()}


def same(first: Candidate, second: Candidate) -> bool:
    """Bit for bit."""
    tensors = [
        {**c.delta, "context": c.context, "classes": c.class_embeddings} for c in (first, second)
    ]
    return first.losses == second.losses and all(
        np.array_equal(value, tensors[1][name]) for name, value in tensors[0].items()
    )


def as_version(ready: Ready, candidate: Candidate) -> Version:
    """What the store would give back for it."""
    zero = ready.store.load(0)
    manifest = zero.manifest.model_copy(update={"id": 1, "parent": 0})
    head = Head(candidate.class_embeddings, candidate.context, zero.head.self_test_embeddings)
    return Version(manifest, candidate.delta, head)


def test_a_round_changes_every_norm_and_the_context_and_no_other_weight(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    before = {name: value.clone() for name, value in ready.clip.model.state_dict().items()}
    candidate = learn(learner, window)
    after = ready.clip.model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == set(swappable(ready.clip)) == set(candidate.delta)
    assert not np.array_equal(candidate.context, ready.store.load(0).head.context)


def test_a_candidate_is_what_the_torch_model_now_is(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    candidate = learn(learner, window)
    with torch.no_grad():
        np.testing.assert_array_equal(candidate.class_embeddings, ready.prompt().numpy())
    for name, value in initial(ready).items():
        np.testing.assert_array_equal(candidate.delta[name], value)


def test_a_candidate_is_a_copy_that_the_next_round_leaves_alone(
    learner: Learner, window: Samples
) -> None:
    first = learn(learner, window)
    delta, context = {k: v.copy() for k, v in first.delta.items()}, first.context.copy()
    learn(learner, window, seed=1)
    assert all(np.array_equal(first.delta[name], value) for name, value in delta.items())
    np.testing.assert_array_equal(first.context, context)


def test_learning_rate_zero_gives_the_parents_delta_and_class_embeddings(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    parent = as_version(ready, learn(learner, window))
    learner.load(parent)
    candidate = learn(learner, window, seed=1, **STILL)
    for name, value in parent.delta.items():
        np.testing.assert_allclose(candidate.delta[name], value, atol=1e-6)
    np.testing.assert_allclose(candidate.context, parent.head.context, atol=1e-6)
    np.testing.assert_allclose(candidate.class_embeddings, parent.head.class_embeddings, atol=1e-6)


def test_a_round_takes_as_many_steps_as_the_passes_ask_for(
    learner: Learner, window: Samples
) -> None:
    steps: list[None] = []
    settings = LearnSettings(**{**FAST, "passes": 1.5})
    candidate = learner.learn(window, settings, 0, between_steps=lambda: steps.append(None))
    assert len(steps) == 3  # 1.5 · 12 images in batches of 8, rounded up
    assert candidate.images == 24
    assert set(candidate.losses) == {"loss", "conditional_entropy", "marginal_entropy"}


def test_rounds_lower_the_loss(learner: Learner, window: Samples) -> None:
    whole: dict[str, Any] = {"batch_images": 12, "passes": 1.0}  # the whole window at once
    first = learn(learner, window, **{**STILL, **whole})
    learn(learner, window, batch_images=12, passes=10.0)
    last = learn(learner, window, **{**STILL, **whole})
    assert last.losses["loss"] < first.losses["loss"]


def test_the_same_seed_gives_the_same_candidate_bit_for_bit_and_another_seed_another(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    candidates = []
    for seed in (3, 3, 4):
        learner.load(ready.store.load(0))
        candidates.append(learn(learner, window, seed))
    assert same(candidates[0], candidates[1])
    assert not same(candidates[0], candidates[2])


def test_a_round_draws_from_its_own_seed_alone(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    first = learn(learner, window)
    learner.load(ready.store.load(0))
    torch.manual_seed(1234)
    assert same(first, learn(learner, window))


def test_loading_a_version_restores_it_exactly(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    zero = learn(learner, window, **STILL)
    one = learn(learner, window)
    learner.load(ready.store.load(0))
    assert same(learn(learner, window, **STILL), zero)
    learner.load(as_version(ready, one))
    restored = learn(learner, window, **STILL)
    assert same(replace(restored, losses=one.losses), one)


def test_a_new_learner_goes_on_from_a_version_as_the_old_one_would(
    learner: Learner, window: Samples, ready: Ready, prepared: Settings
) -> None:
    version = as_version(ready, learn(learner, window))
    learner.load(version)
    expected = learn(learner, window, seed=1)
    clip = load(prepared.model)
    other = Learner(clip, Prompt(clip, prepared.classes, prepared.prompt), ready.encoder)
    other.load(version)
    assert same(learn(other, window, seed=1), expected)


def test_a_delta_of_a_few_parameters_leaves_the_others_at_the_start(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    start = initial(ready)
    version = as_version(ready, learn(learner, window))
    chosen = min(version.delta)
    learner.load(replace(version, delta={chosen: version.delta[chosen]}))
    for name, value in initial(ready).items():
        expected = version.delta[name] if name == chosen else start[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_zero_shot_answers_are_probabilities_and_the_weights_lie_between_chance_and_one(
    learner: Learner, window: Samples
) -> None:
    probabilities, weights = learner.zero_shot(np.stack([s.pixels for s in window]), 1.0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights, probabilities.max(axis=1), atol=1e-6)
    assert ((weights >= 1 / 3 - 1e-6) & (weights <= 1)).all()


def test_a_higher_weight_temperature_flattens_the_weights_and_not_the_answers(
    learner: Learner, window: Samples
) -> None:
    pixels = np.stack([sample.pixels for sample in window])
    sharp, flat = learner.zero_shot(pixels, 1.0), learner.zero_shot(pixels, 20.0)
    np.testing.assert_array_equal(sharp[0], flat[0])
    assert (flat[1] < sharp[1]).all()
    assert (flat[1] >= 1 / 3).all()


def test_zero_shot_answers_stay_while_the_model_learns(learner: Learner, window: Samples) -> None:
    learn(learner, window)
    probabilities, _ = learner.zero_shot(np.stack([s.pixels for s in window]), 1.0)
    np.testing.assert_array_equal(probabilities, np.stack([s.zero_shot for s in window]))


def test_what_is_raised_between_steps_ends_the_round(learner: Learner, window: Samples) -> None:
    calls: list[None] = []

    def stop_at_the_second() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        learner.learn(window, LearnSettings(**FAST), 0, between_steps=stop_at_the_second)
    assert len(calls) == 2


def test_a_step_that_is_not_finite_ends_the_round_with_finite_weights(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    with pytest.raises(NonFiniteStepError):
        learn(learner, window, learning_rate=1e38, context_learning_rate=1e38, passes=9.0)
    assert all(np.isfinite(value).all() for value in initial(ready).values())


def test_parity_holds_for_the_encoder_of_the_candidate(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    candidate = learn(learner, window)
    encoder = build(ready.encoder.base, candidate.delta, Runtime())
    learner.check_parity(candidate, encoder, window)


def test_parity_in_half_precision_has_limits_of_its_own(
    learner: Learner, window: Samples, ready: Ready, tmp_path: Path
) -> None:
    base = ensure_base(ready.clip, VersionStore(tmp_path / "half"), "float16")
    candidate = learn(learner, window)
    learner.check_parity(candidate, build(base, candidate.delta, Runtime()), window)
    other = {name: value * 1.3 + 0.2 for name, value in candidate.delta.items()}
    with pytest.raises(ParityError, match="float16"):
        learner.check_parity(candidate, build(base, other, Runtime()), window)


def test_parity_fails_for_an_encoder_with_another_delta(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    candidate = learn(learner, window)
    other = {name: value * 1.3 + 0.2 for name, value in candidate.delta.items()}
    with pytest.raises(
        ParityError, match=r"on 12 images torch and ONNX Runtime \(float32\) differ"
    ):
        learner.check_parity(candidate, build(ready.encoder.base, other, Runtime()), window)


def test_parity_fails_for_a_model_that_answers_nan(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    candidate = learn(learner, window)
    broken = {name: np.full_like(value, np.nan) for name, value in candidate.delta.items()}
    with pytest.raises(ParityError):
        learner.check_parity(candidate, build(ready.encoder.base, broken, Runtime()), window)


@VIT
@pytest.mark.parametrize("objective", ["ueo", "information-maximisation", "entropy-minimisation"])
def test_every_objective_can_be_learned(learner: Learner, window: Samples, objective: str) -> None:
    candidate = learn(learner, window, objective=objective)
    assert all(np.isfinite(value).all() for value in candidate.delta.values())


@VIT  # through the batch statistics of a random net of few channels, bfloat16 leads elsewhere
def test_a_round_in_bfloat16_learns_the_same_in_less_precision(
    learner: Learner, window: Samples, ready: Ready
) -> None:
    """Weights stay in float32, and go where float32 goes: most of the way in the same direction."""
    learner.load(start := ready.store.load(0))
    before = learner.tower.norm_values()
    exact = learn(learner, window)
    learner.load(start)
    less = learn(learner, window, autocast="bfloat16")
    assert {value.dtype for value in less.delta.values()} == {np.dtype(np.float32)}
    here, there = (
        np.concatenate([(each.delta[k] - v).ravel() for k, v in before.items()])
        for each in (exact, less)
    )
    assert not np.array_equal(here, there), "it was computed in less"
    assert float(here @ there) > 0.9 * float(np.linalg.norm(here) * np.linalg.norm(there))


def test_a_tower_in_bfloat16_gives_unit_embeddings_in_float32(ready: Ready) -> None:
    tower, images = Tower(ready.clip), torch.rand(2, 3, 32, 32)
    exact = autocast(tower.module, "off", tower.device)(images).detach()
    less = autocast(tower.module, "bfloat16", tower.device)(images).detach()
    assert less.dtype == torch.float32
    torch.testing.assert_close(less.norm(dim=1), torch.ones(2))
    assert not torch.equal(less, exact)
    torch.testing.assert_close(less, exact, atol=0.05, rtol=0)


def test_moving_to_the_cpu_is_no_copy() -> None:
    assert moved(tensor := torch.ones(2), torch.device("cpu")) is tensor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_what_is_moved_to_cuda_from_pinned_memory_is_the_same() -> None:
    batches = [torch.full((64, 3, 160, 160), n, dtype=torch.uint8) for n in range(8)]
    there = [moved(batch, torch.device("cuda")).float() for batch in batches]
    for batch, each in zip(batches, there, strict=True):
        torch.testing.assert_close(each.cpu(), batch.float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_round_on_cuda_gives_what_it_gives_on_cpu(
    learner: Learner,
    window: Samples,
    ready: Ready,
    tiny_directory: Path,
    tiny_settings: Callable[..., Settings],
) -> None:
    settings = tiny_settings(tiny_directory)
    clip = load(settings.model, device="cuda")
    prompt = Prompt(clip, settings.classes, settings.prompt)
    there = learn(Learner(clip, prompt, ready.encoder), window)
    here = learn(learner, window)
    for name, value in here.delta.items():
        np.testing.assert_allclose(there.delta[name], value, atol=2e-3, err_msg=name)
    np.testing.assert_allclose(there.class_embeddings, here.class_embeddings, atol=2e-3)
    assert there.losses == pytest.approx(here.losses, abs=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_parity_holds_for_what_was_learned_on_cuda(
    window: Samples, ready: Ready, tiny_directory: Path, tiny_settings: Callable[..., Settings]
) -> None:
    """By default its convolutions would be rounded to TF32, and every candidate refused."""
    settings = tiny_settings(tiny_directory)
    clip = load(settings.model, device="cuda")
    learner = Learner(clip, Prompt(clip, settings.classes, settings.prompt), ready.encoder)
    candidate = learn(learner, window)
    learner.check_parity(candidate, build(ready.encoder.base, candidate.delta, Runtime()), window)
