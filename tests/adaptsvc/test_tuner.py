"""One tuning round: it learns the labels, repeats itself bit for bit, and changes what it may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from adaptsvc.adapt.labeled_objectives import LABELED
from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.bootstrap import Ready
from adaptsvc.errors import NonFiniteStepError
from adaptsvc.learner import Candidate, Learner
from adaptsvc.sections import TuneSettings
from adaptsvc.serving.encoder import Runtime, build
from adaptsvc.serving.predictor import logits_of
from adaptsvc.tuner import Start, Tuner
from adaptsvc.types import Float32, Tensors

pytestmark = pytest.mark.usefixtures("one_thread")
Tune = Callable[..., Candidate]
COLOURS = ((230, 30, 30), (30, 200, 60), (40, 60, 240))
EVEN = np.full(3, 1 / 3, np.float32)
FAST: dict[str, Any] = {"passes": 2.0, "batch_images": 6}
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
RESNET = pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)
every_method = pytest.mark.parametrize("method", LABELED)


def coloured(count: int = 12) -> tuple[LabeledSample, ...]:
    """Pictures of one colour per class, each a little lighter or darker than the next."""
    shades = np.random.default_rng(0).integers(-20, 21, (count, 3))
    values = np.clip(np.array(COLOURS)[np.arange(count) % 3] + shades, 0, 255).astype(np.uint8)
    return tuple(
        LabeledSample(
            f"image-{k}",
            np.broadcast_to(value[:, None, None], (3, 32, 32)).copy(),
            k % 3,
            ("images.labeled", 0, k),
            EVEN,
        )
        for k, value in enumerate(values)
    )


SAMPLES = coloured()


@pytest.fixture
def start(learner: Learner, ready: Ready) -> Start:
    return Start(
        text=learner.class_embeddings(),
        zero_shot=learner.zero_shot_embeddings,
        context=ready.store.load(0).head.context,
        logit_scale=ready.clip.logit_scale,
    )


@pytest.fixture
def tune(learner: Learner, ready: Ready, start: Start) -> Tune:
    """A round from version 0."""

    def run(
        seed: int = 0, between_steps: Callable[[], None] = lambda: None, **settings: Any
    ) -> Candidate:
        learner.load(ready.store.load(0))
        chosen = TuneSettings(**{**FAST, **settings})
        tuner = Tuner(learner.tower)
        return tuner.tune(start, SAMPLES, chosen, seed=seed, between_steps=between_steps)

    return run


def tensors(candidate: Candidate) -> Tensors:
    head = {"head": candidate.class_embeddings, "context": candidate.context}
    return {**candidate.delta, **candidate.tower, **head}


def same(first: Candidate, second: Candidate) -> bool:
    """Bit for bit."""
    one, two = tensors(first), tensors(second)
    return first.losses == second.losses and all(
        np.array_equal(value, two[name]) for name, value in one.items()
    )


def served_accuracy(ready: Ready, delta: Tensors, class_embeddings: Float32) -> float:
    """On the training images, by ONNX Runtime."""
    embeddings = build(ready.encoder.base, delta, Runtime()).embed(
        np.stack([sample.pixels for sample in SAMPLES])
    )
    chosen = logits_of(embeddings, class_embeddings, ready.clip.logit_scale).argmax(axis=1)
    return float(np.mean(chosen == [sample.target for sample in SAMPLES]))


def state(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.tower.module.state_dict().items()}


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


@every_method
def test_every_method_gives_a_finite_candidate_that_says_how_it_was_made(
    tune: Tune, method: str, start: Start
) -> None:
    candidate = tune(method=method)
    assert all(np.isfinite(value).all() for value in tensors(candidate).values())
    assert (candidate.method, candidate.labels_used, candidate.images) == (method, True, 24)
    assert np.isfinite(list(candidate.losses.values())).all()
    assert "loss" in candidate.losses
    np.testing.assert_array_equal(candidate.context, start.context)


@every_method
def test_every_method_learns_the_labels(
    tune: Tune, method: str, ready: Ready, start: Start
) -> None:
    before = served_accuracy(ready, {}, start.text)
    candidate = tune(method=method, passes=20.0)
    after = served_accuracy(ready, candidate.delta, candidate.class_embeddings)
    assert after > before
    assert after >= 11 / 12


@VIT
@every_method
def test_the_same_seed_gives_the_same_candidate_bit_for_bit_and_another_seed_another(
    tune: Tune, method: str
) -> None:
    first, again, other = (tune(seed, method=method) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


@VIT
def test_a_round_draws_from_its_own_seed_alone(tune: Tune) -> None:
    first = tune()
    torch.manual_seed(1234)
    assert same(first, tune())


@VIT
def test_the_methods_give_different_candidates(tune: Tune) -> None:
    heads = [tune(method=method).class_embeddings for method in LABELED]
    assert len({head.tobytes() for head in heads}) == len(LABELED)


def test_training_the_norms_changes_the_norms_alone_and_ships_no_tower(
    tune: Tune, learner: Learner
) -> None:
    before = state(learner)
    candidate = tune(trained="norm")
    assert differing(before, state(learner)) == set(candidate.delta) == set(learner.tower.norms)
    assert candidate.tower == {}


@pytest.mark.parametrize("trained", ["last-block", "all"])
def test_training_more_ships_what_changed_beside_the_norms_and_no_running_statistic(
    tune: Tune, learner: Learner, trained: str
) -> None:
    before = state(learner)
    candidate = tune(trained=trained)
    chosen = learner.tower.select(trained)  # type: ignore[arg-type]
    moved = differing(before, state(learner))
    assert moved == {*candidate.tower, *candidate.delta} <= set(chosen)
    # Not all: in a ViT the bias of the keys cancels in the softmax.
    assert len(moved) > 0.9 * len(chosen)
    after = state(learner)
    for name, value in candidate.tower.items():
        np.testing.assert_array_equal(value, after[name].numpy())


def test_norms_trained_on_a_tuned_tower_ship_what_it_was_tuned_to(
    tune: Tune, learner: Learner, ready: Ready, start: Start
) -> None:
    tuned = tune(trained="last-block").tower
    learner.load(ready.store.load(0), tuned)
    settings = TuneSettings(**{**FAST, "trained": "norm"})
    candidate = Tuner(learner.tower).tune(
        start, SAMPLES, settings, seed=1, between_steps=lambda: None
    )
    assert candidate.tower.keys() == tuned.keys()
    assert all(np.array_equal(value, tuned[name]) for name, value in candidate.tower.items())


def test_a_candidate_is_a_copy_that_the_next_round_leaves_alone(tune: Tune) -> None:
    first = tune(trained="all")
    kept = {name: value.copy() for name, value in tensors(first).items()}
    tune(seed=1, trained="all")
    assert all(np.array_equal(value, kept[name]) for name, value in tensors(first).items())


@VIT
@every_method
def test_learning_rate_zero_gives_the_weights_and_the_head_it_started_from(
    tune: Tune, learner: Learner, method: str, start: Start
) -> None:
    before = state(learner)
    still = {"learning_rate": 0.0, "head_learning_rate": 0.0}
    candidate = tune(method=method, trained="all", **still)
    assert not differing(before, state(learner))
    assert candidate.tower == {}
    np.testing.assert_allclose(candidate.class_embeddings, start.text, atol=1e-6)


def test_interpolation_zero_gives_the_zero_shot_weights_and_head(
    tune: Tune, learner: Learner, start: Start
) -> None:
    before = state(learner)
    candidate = tune(trained="all", interpolation=0.0)
    assert not differing(before, state(learner))
    assert candidate.tower == {}
    np.testing.assert_array_equal(candidate.class_embeddings, start.zero_shot)
    for name, value in candidate.delta.items():
        np.testing.assert_array_equal(value, before[name].numpy())


@VIT
def test_interpolation_is_that_share_of_the_way_to_the_tuned_model(
    tune: Tune, learner: Learner, start: Start
) -> None:
    before, tuned = state(learner), tune(trained="last-block")
    quarter = tune(trained="last-block", interpolation=0.25)
    for name, value in {**quarter.tower, **quarter.delta}.items():
        end = {**tuned.tower, **tuned.delta}[name]
        expected = 0.75 * before[name].numpy() + 0.25 * end
        np.testing.assert_allclose(value, expected, atol=1e-6)
    head = 0.75 * start.zero_shot + 0.25 * tuned.class_embeddings
    np.testing.assert_allclose(quarter.class_embeddings, head, atol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_adversarial_rounds_are_finite_and_repeat_bit_for_bit(tune: Tune, norm: str) -> None:
    candidate = tune(adversarial=norm, passes=1.0)
    assert all(np.isfinite(value).all() for value in tensors(candidate).values())
    assert same(candidate, tune(adversarial=norm, passes=1.0))
    assert not same(candidate, tune(passes=1.0))


@VIT
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_adversarial_rounds_learn_the_labels_too(
    tune: Tune, norm: str, ready: Ready, start: Start
) -> None:
    before = served_accuracy(ready, {}, start.text)
    candidate = tune(adversarial=norm, passes=10.0)
    assert served_accuracy(ready, candidate.delta, candidate.class_embeddings) > before


@VIT
def test_a_round_takes_as_many_steps_as_the_passes_ask_for(tune: Tune) -> None:
    steps: list[None] = []
    candidate = tune(between_steps=lambda: steps.append(None), passes=1.2, batch_images=5)
    assert (len(steps), candidate.images) == (3, 15)  # 1.2 · 12 images in batches of 5, rounded up


@VIT
def test_a_batch_larger_than_the_labels_is_all_of_them(tune: Tune) -> None:
    assert tune(passes=1.0, batch_images=500).images == len(SAMPLES)


@VIT
def test_what_is_raised_between_steps_ends_the_round(tune: Tune) -> None:
    calls: list[None] = []

    def stop_at_the_second() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tune(between_steps=stop_at_the_second)
    assert len(calls) == 2


@pytest.mark.parametrize("method", ["cross-entropy", "core"])
def test_a_round_that_overflows_ends_with_finite_weights(
    tune: Tune, method: str, learner: Learner
) -> None:
    with pytest.raises(NonFiniteStepError):
        tune(method=method, learning_rate=1e38, head_learning_rate=1e38, passes=9.0)
    assert all(value.isfinite().all() for value in state(learner).values())
