"""The learner: what it selects, what a step changes, and that a bad step changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from adaptsvc.adapt.adapter import (
    Adapter,
    DualEncoder,
    StepSettings,
    norm_parameters,
    trainable_only,
    unit,
)
from adaptsvc.adapt.objective import OBJECTIVES, Loss, Objective
from adaptsvc.adapt.stepping import cosine_decay
from adaptsvc.errors import NonFiniteStepError, ObjectiveError

UEO = OBJECTIVES["ueo"]
SETTINGS = StepSettings(
    learning_rate=0.05, context_learning_rate=0.05, momentum=0.0, total_steps=1000
)
WEIGHTS = torch.ones(6)


class Toy:
    """A tower with both kinds of norms, and class embeddings with a context; all of it is seeded."""

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tower = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LayerNorm(16)
            )
            self.classes, self.context = torch.randn(3, 16), nn.Parameter(0.1 * torch.randn(16))
            self.images = torch.randn(6, 3, 4, 4)
        self.norms = norm_parameters(self.tower)
        trainable_only(self.tower, [*self.norms.values(), self.context])

    def adapter(self, settings: StepSettings = SETTINGS, chosen: Objective = UEO) -> Adapter:
        model = DualEncoder(
            encode=lambda images: unit(self.tower(images)),
            class_embeddings=lambda: unit(self.classes + self.context),
            logit_scale=10.0,
            norms=self.norms,
            context={"context": self.context},
        )
        return Adapter(model, chosen, settings)

    def state(self) -> dict[str, Tensor]:
        """A copy of everything, trained or not."""
        tensors = {**self.tower.state_dict(), "context": self.context.detach()}
        return {name: tensor.clone() for name, tensor in tensors.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def broken(spoil: Callable[[Tensor], Tensor]) -> Objective:
    """UEO whose total is spoilt."""

    def spoilt(logits: Tensor, weights: Tensor) -> Loss:
        loss = UEO(logits, weights)
        return Loss(spoil(loss.total), loss.parts)

    return spoilt


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(4),
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norm_parameters_are_the_weight_and_bias_of_a_norm(norm: nn.Module) -> None:
    found = norm_parameters(nn.Sequential(nn.Linear(4, 4), norm))
    assert found == {"1.weight": norm.weight, "1.bias": norm.bias}


def test_norm_parameters_are_selected_by_type_not_by_name() -> None:
    tower = nn.ModuleDict(
        {"norm": nn.Linear(2, 2), "mixer": nn.RMSNorm(2), "odd": nn.BatchNorm1d(2)}
    )
    assert list(norm_parameters(tower, "visual")) == [
        "visual.mixer.weight",
        "visual.odd.weight",
        "visual.odd.bias",
    ]


def test_a_subclass_of_a_norm_counts_as_one() -> None:
    class LayerNormFp32(nn.LayerNorm):
        pass

    assert list(norm_parameters(LayerNormFp32(2))) == ["weight", "bias"]


@pytest.mark.parametrize(
    "tower",
    [nn.Linear(2, 2), nn.LayerNorm(2, elementwise_affine=False)],
    ids=["none", "no weights"],
)
def test_a_model_without_norm_weights_is_refused(tower: nn.Module) -> None:
    with pytest.raises(ObjectiveError, match=f"{type(tower).__name__} has no normalization layer"):
        norm_parameters(tower)


def test_trainable_only_sets_eval_mode_and_lets_gradients_reach_the_named_alone() -> None:
    norm = nn.BatchNorm1d(2)
    tower = nn.Sequential(nn.Linear(2, 2), norm)
    trainable_only(tower.train(), [norm.weight])
    assert not tower.training
    assert [name for name, p in tower.named_parameters() if p.requires_grad] == ["1.weight"]


def test_unit_rows_have_length_one() -> None:
    rows = unit(torch.tensor([[3.0, 4.0], [0.0, -2.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, -1.0]]))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_at_rate_zero_changes_nothing(momentum: float) -> None:
    toy = Toy()
    before = toy.state()
    still = replace(SETTINGS, learning_rate=0.0, context_learning_rate=0.0, momentum=momentum)
    adapter = toy.adapter(still)
    for _ in range(3):
        adapter.step(toy.images, WEIGHTS)
    assert changed(before, toy.state()) == set()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_steps_lower_the_loss(name: str) -> None:
    toy = Toy()
    adapter = toy.adapter(chosen=OBJECTIVES[name])
    losses = [adapter.step(toy.images, WEIGHTS)["loss"] for _ in range(10)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.05


def test_a_step_reports_the_loss_before_it_and_its_parts() -> None:
    toy = Toy()
    adapter = toy.adapter()
    with torch.no_grad():
        logits = 10.0 * unit(toy.tower(toy.images)) @ unit(toy.classes + toy.context).T
        expected = UEO(logits, WEIGHTS)
    report = adapter.step(toy.images, WEIGHTS)
    assert report.pop("loss") == pytest.approx(expected.total.item(), abs=1e-6)
    parts = {name: part.item() for name, part in expected.parts.items()}
    assert report == pytest.approx(parts, abs=1e-6)


def test_only_norm_parameters_and_context_change_and_running_statistics_stay() -> None:
    toy = Toy()
    before = toy.state()
    adapter = toy.adapter()
    for _ in range(3):
        adapter.step(toy.images, WEIGHTS)
    assert changed(before, toy.state()) == {*toy.norms, "context"}
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= before.keys()


@pytest.mark.parametrize(
    ("norm_rate", "context_rate"), [(0.1, 0.0), (0.0, 0.1)], ids=["norms", "context"]
)
def test_each_rate_moves_its_own_parameters(norm_rate: float, context_rate: float) -> None:
    toy = Toy()
    before = toy.state()
    rates = replace(SETTINGS, learning_rate=norm_rate, context_learning_rate=context_rate)
    toy.adapter(rates).step(toy.images, WEIGHTS)
    assert changed(before, toy.state()) == (set(toy.norms) if norm_rate else {"context"})


def test_the_context_may_be_empty() -> None:
    toy = Toy()
    model = DualEncoder(toy.tower, lambda: toy.classes, 1.0, norms=toy.norms, context={})
    adapter = Adapter(model, UEO, SETTINGS)
    adapter.step(toy.images, WEIGHTS)
    assert set(adapter.stepper.snapshot()) == set(toy.norms)


def test_a_step_learns_even_where_gradients_are_switched_off() -> None:
    toy = Toy()
    before = toy.state()
    with torch.no_grad():
        toy.adapter().step(toy.images, WEIGHTS)
    assert changed(before, toy.state())


def test_a_batch_without_images_is_refused() -> None:
    toy = Toy()
    with pytest.raises(ObjectiveError, match="with N at least 1"):
        toy.adapter().step(toy.images[:0], WEIGHTS[:0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_refused_and_the_weights_are_as_before(value: float) -> None:
    toy = Toy()
    before = toy.state()
    toy.images[2, 1, 0, 0] = value
    with pytest.raises(NonFiniteStepError, match="step 1 gave a gradient that is NaN or Inf"):
        toy.adapter().step(toy.images, WEIGHTS)
    assert changed(before, toy.state()) == set()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda total: total * math.inf,
        lambda total: total + math.nan,
        lambda total: total * 1e38 * 10,
    ],
    ids=["inf", "nan value, finite gradient", "overflow"],
)
def test_a_loss_or_gradient_that_is_not_finite_is_refused(
    spoil: Callable[[Tensor], Tensor],
) -> None:
    toy = Toy()
    before = toy.state()
    with pytest.raises(NonFiniteStepError, match="gradient"):
        toy.adapter(chosen=broken(spoil)).step(toy.images, WEIGHTS)
    assert changed(before, toy.state()) == set()


def test_a_weight_that_overflows_is_refused_and_all_weights_are_as_before() -> None:
    toy = Toy()
    before = toy.state()
    steep = broken(lambda total: total * 1e3)
    huge = replace(SETTINGS, learning_rate=3e38, context_learning_rate=3e38)
    with pytest.raises(NonFiniteStepError, match="step 1 gave a weight that is NaN or Inf"):
        toy.adapter(huge, steep).step(toy.images, WEIGHTS)
    assert changed(before, toy.state()) == set()


def test_a_good_step_after_a_refused_one_is_as_if_there_had_been_none() -> None:
    toy, untroubled = Toy(), Toy()
    adapter = toy.adapter(replace(SETTINGS, momentum=0.9))
    with pytest.raises(NonFiniteStepError):
        adapter.step(torch.full_like(toy.images, math.nan), WEIGHTS)
    adapter.step(toy.images, WEIGHTS)
    untroubled.adapter().step(toy.images, WEIGHTS)
    assert changed(untroubled.state(), toy.state()) == set()


def test_restore_brings_a_snapshot_back_exactly() -> None:
    toy = Toy()
    before, adapter = toy.state(), toy.adapter()
    snapshot = adapter.stepper.snapshot()
    adapter.step(toy.images, WEIGHTS)
    adapter.stepper.restore(snapshot)
    assert changed(before, toy.state()) == set()


def test_a_snapshot_is_a_copy_of_every_trained_parameter() -> None:
    toy = Toy()
    adapter = toy.adapter()
    snapshot = adapter.stepper.snapshot()
    adapter.step(toy.images, WEIGHTS)
    assert changed(snapshot, adapter.stepper.snapshot()) == {*toy.norms, "context"}
    assert not any(tensor.requires_grad for tensor in snapshot.values())


def test_restore_forgets_the_momentum() -> None:
    toy = Toy()
    adapter = toy.adapter(replace(SETTINGS, momentum=0.9, total_steps=10**9))
    snapshot = adapter.stepper.snapshot()
    adapter.step(toy.images, WEIGHTS)
    first = adapter.stepper.snapshot()
    adapter.stepper.restore(snapshot)
    adapter.step(toy.images, WEIGHTS)
    assert changed(first, adapter.stepper.snapshot()) == set()


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    toys = [Toy(1), Toy(1), Toy(2)]
    for toy in toys:
        adapter = toy.adapter(replace(SETTINGS, momentum=0.9))
        for _ in range(3):
            adapter.step(toy.images, WEIGHTS)
    first, second, other = (toy.state() for toy in toys)
    assert changed(first, second) == set()
    assert changed(first, other)


def test_cosine_decay_goes_from_one_to_zero_and_stays_there() -> None:
    factors = [cosine_decay(step, 8) for step in range(12)]
    assert factors[0] == 1.0
    assert factors[4] == pytest.approx(0.5)
    assert factors[8:] == pytest.approx([0.0] * 4)
    assert factors == sorted(factors, reverse=True)


def test_steps_follow_the_cosine() -> None:
    """With a gradient of 1 at every step, a parameter moves by rate times factor."""
    parameter = nn.Parameter(torch.zeros(2))
    model = DualEncoder(
        encode=lambda images: images + 0 * parameter.sum(),
        class_embeddings=lambda: torch.eye(2) + parameter - parameter.detach(),
        logit_scale=1.0,
        norms={"norm": parameter},
        context={},
    )
    settings = replace(SETTINGS, learning_rate=1.0, total_steps=4)
    adapter = Adapter(model, lambda logits, weights: Loss(logits.sum(), {}), settings)
    path = [parameter.detach()[0].item()]
    for _ in range(5):
        adapter.step(torch.tensor([[0.5, 0.5]]), torch.ones(1))
        path.append(parameter.detach()[0].item())
    moves = [before - after for before, after in pairwise(path)]
    assert moves == pytest.approx([cosine_decay(step, 4) for step in range(5)], abs=1e-6)
