"""One tuning: what it trains and leaves alone, where the teacher is, and that a bad step changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from adaptsvc.adapt.adapter import norm_parameters, trainable_only, unit
from adaptsvc.adapt.carot import ema_momentum
from adaptsvc.adapt.labeled import LabeledBatch, LabeledObjective
from adaptsvc.adapt.labeled_objectives import LABELED
from adaptsvc.adapt.objective import Loss
from adaptsvc.adapt.tuning import Tuning, TuningSteps
from adaptsvc.errors import NonFiniteStepError

TARGETS = torch.arange(12) % 3
STEPS = TuningSteps(0.02, 0.02, momentum=0.9, weight_decay=0.0, total_steps=20)
LONG = replace(STEPS, total_steps=250)  # the teacher moves at every fifth step
STILL = TuningSteps(0.0, 0.0, momentum=0.9, weight_decay=0.1, total_steps=20)
every_objective = pytest.mark.parametrize("name", LABELED)


class Tower(nn.Module):
    """Convolution, BatchNorm, linear layer; unit embeddings; seeded."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.proj = nn.Parameter(torch.randn(16, 8) / 4)
            self.norm.running_mean, self.norm.running_var = torch.randn(4), torch.rand(4) + 0.5
            self.images = torch.randn(12, 3, 4, 4) + TARGETS.view(-1, 1, 1, 1)
            self.classes = F.normalize(torch.randn(3, 8), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return unit(self.norm(self.conv(images)).relu().flatten(1) @ self.proj)


class Recorder(LabeledObjective):
    """Cross-entropy that remembers what it is given."""

    needs_teacher: ClassVar[bool] = True

    def __init__(self, classes: Tensor) -> None:
        super().__init__(classes, 10.0, generator=Generator())
        self.batches: list[LabeledBatch] = []
        self.momenta: list[float] = []

    def loss(self, batch: LabeledBatch) -> Loss:
        self.batches.append(batch)
        return Loss(F.cross_entropy(self.logits(batch.features), batch.targets), {})

    def update_teacher(self, momentum: float) -> None:
        self.momenta.append(momentum)


class Bench:
    """A tower, an objective, and a tuning of some of the tower's parameters."""

    def __init__(
        self, name: str = "cross-entropy", steps: TuningSteps = STEPS, trained: str = "norm"
    ) -> None:
        self.tower = Tower()
        self.trained = (
            norm_parameters(self.tower)
            if trained == "norm"
            else dict(self.tower.named_parameters())
        )
        self.objective = LABELED[name](self.tower.classes, 10.0, generator=Generator())
        self.start(self.objective, steps)

    def start(self, objective: LabeledObjective, steps: TuningSteps) -> None:
        trainable_only(self.tower, list(self.trained.values()))
        self.objective, self.generator = objective, Generator().manual_seed(3)
        self.tuning = Tuning(
            self.tower, objective, trained=self.trained, projection=None, steps=steps
        )

    def step(self) -> dict[str, float]:
        return self.tuning.step(self.tower.images, TARGETS, self.generator)

    def state(self) -> dict[str, Tensor]:
        """A copy of everything, trained or not."""
        tensors = {**self.tower.state_dict(prefix="tower."), **self.objective.state_dict()}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@every_objective
def test_learning_rate_zero_changes_nothing_but_a_teacher_that_already_agrees(name: str) -> None:
    bench = Bench(name, STILL, trained="all")
    before = bench.state()
    for _ in range(5):
        bench.step()
    for key, value in bench.state().items():
        torch.testing.assert_close(value, before[key], atol=1e-6, rtol=0, msg=key)


@every_objective
def test_steps_lower_the_loss(name: str) -> None:
    bench = Bench(name, trained="all")
    losses = [bench.step()["loss"] for _ in range(20)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_norms_and_the_head_change_and_nothing_else_does() -> None:
    bench = Bench()
    before = bench.state()
    for _ in range(3):
        bench.step()
    assert changed(before, bench.state()) == {"tower.norm.weight", "tower.norm.bias", "head"}


def test_running_statistics_stay_where_all_is_trained() -> None:
    bench = Bench(trained="all")
    before = bench.state()
    for _ in range(3):
        bench.step()
    assert changed(before, bench.state()) == {
        *(f"tower.{name}" for name in bench.trained),
        "head",
    }


def test_what_the_objective_trains_beside_the_head_is_trained_at_the_heads_rate() -> None:
    bench = Bench("tes", TuningSteps(0.0, 0.02, momentum=0.0, weight_decay=0.0, total_steps=9))
    before = bench.state()
    bench.step()
    moved = changed(before, bench.state())
    assert {"head", "text_head.inner.weight", "text_head.outer.bias"} <= moved
    assert not any(name.startswith("tower.") or name == "text" for name in moved)


def test_the_report_is_the_loss_before_the_step_and_its_parts() -> None:
    bench = Bench()
    with torch.no_grad():
        logits = bench.objective.logits(bench.tower(bench.tower.images))
    report = bench.step()
    assert report["loss"] == pytest.approx(F.cross_entropy(logits, TARGETS).item(), abs=1e-6)
    assert set(report) == {"loss", "cross_entropy"}


@every_objective
def test_the_same_seed_gives_the_same_weights_bit_for_bit(name: str) -> None:
    first, second = Bench(name), Bench(name)
    second.objective.load_state_dict(first.objective.state_dict())
    for bench in (first, second):
        for _ in range(3):
            bench.step()
    assert not changed(first.state(), second.state())


def test_draws_come_from_the_generator_given() -> None:
    first, second = Bench("core"), Bench("core")
    second.objective.load_state_dict(first.objective.state_dict())
    second.generator.manual_seed(4)
    for bench in (first, second):
        bench.step()
    assert changed(first.state(), second.state())


@every_objective
def test_a_batch_with_nan_is_refused_and_the_weights_are_as_before(name: str) -> None:
    bench = Bench(name, trained="all")
    bench.step()
    before = bench.state()
    bench.tower.images[2, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteStepError):
        bench.step()
    assert not changed(before, bench.state())


def test_a_step_that_overflows_the_head_is_refused_and_the_weights_are_as_before() -> None:
    bench = Bench(steps=TuningSteps(0.01, 3e38, momentum=0.9, weight_decay=0.1, total_steps=20))
    bench.objective.logit_scale = 1e3
    before = bench.state()
    with pytest.raises(NonFiniteStepError, match="a weight that is NaN or Inf"):
        bench.step()
    assert not changed(before, bench.state())


def test_a_tower_whose_embeddings_have_no_length_is_refused_as_a_step_that_is_not_finite() -> None:
    """The length of huge numbers is Inf, and what is divided by it is 0: no unit row, and no NaN."""
    bench = Bench()
    with torch.no_grad():
        bench.tower.norm.weight.fill_(1e38)
    before = bench.state()
    with pytest.raises(NonFiniteStepError):
        bench.step()
    assert not changed(before, bench.state())


def test_the_teacher_starts_as_the_model_and_stays_for_a_fiftieth_of_the_round() -> None:
    bench = Bench()
    recorder = Recorder(bench.tower.classes)
    bench.start(recorder, LONG)
    with torch.no_grad():
        first = bench.tower(bench.tower.images)
    for _ in range(5):
        bench.step()
    teachers = [batch.teacher_features for batch in recorder.batches]
    assert all(found is not None and torch.equal(found, first) for found in teachers)
    assert not torch.equal(recorder.batches[-1].features, first)


def test_the_teacher_moves_by_the_formula() -> None:
    """θ' ← m θ' + (1 - m) θ after the fifth step, and the objective is told the same m."""
    bench = Bench()
    recorder = Recorder(bench.tower.classes)
    bench.start(recorder, LONG)
    start = {name: p.detach().clone() for name, p in bench.trained.items()}
    for _ in range(5):
        bench.step()
    share = ema_momentum(5, 250)
    teacher = Tower().eval()
    with torch.no_grad():
        for name, p in norm_parameters(teacher).items():
            p.copy_(share * start[name] + (1 - share) * bench.trained[name])
        expected = teacher(bench.tower.images)
    bench.step()
    found = recorder.batches[-1].teacher_features
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert recorder.momenta == [share] == [pytest.approx(0.05 + 0.85 / 10)]


def test_in_a_short_round_the_teacher_moves_at_every_step() -> None:
    bench = Bench()
    recorder = Recorder(bench.tower.classes)
    bench.start(recorder, STEPS)
    for _ in range(3):
        bench.step()
    assert recorder.momenta == [ema_momentum(step, 20) for step in (1, 2, 3)]


def test_an_objective_that_needs_no_teacher_gets_none() -> None:
    bench = Bench()
    recorder = Recorder(bench.tower.classes)
    recorder.needs_teacher = False  # type: ignore[misc]
    bench.start(recorder, STEPS)
    for _ in range(5):
        bench.step()
    assert [batch.teacher_features for batch in recorder.batches] == [None] * 5
    assert recorder.momenta == []


def test_no_gradient_reaches_the_teacher() -> None:
    bench = Bench()
    recorder = Recorder(bench.tower.classes)
    bench.start(recorder, STEPS)
    bench.step()
    (batch,) = recorder.batches
    assert batch.features.requires_grad
    assert batch.teacher_features is not None
    assert not batch.teacher_features.requires_grad
