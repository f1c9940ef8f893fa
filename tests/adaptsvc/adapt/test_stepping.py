"""The stepper: it moves as torch's SGD on a cosine does, and takes back a step that is not finite."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from adaptsvc.adapt.stepping import Descent, Group, Stepper, cosine_decay
from adaptsvc.errors import NonFiniteStepError

PLAIN = Descent(momentum=0.0, total_steps=1000)


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def squares(*parameters: nn.Parameter) -> Tensor:
    """½ ‖p‖², whose gradient is p."""
    return sum((p**2).sum() / 2 for p in parameters) + torch.zeros(())


def test_a_step_goes_against_the_gradient_by_the_rate() -> None:
    p = parameter(1.0, -2.0)
    Stepper(Group({"p": p}, 0.1), descent=PLAIN).step(squares(p))
    torch.testing.assert_close(p.detach(), torch.tensor([0.9, -1.8]))


def test_each_group_has_its_own_rate() -> None:
    p, q = parameter(1.0), parameter(1.0)
    stepper = Stepper(Group({"p": p}, 0.1), Group({"q": q}, 0.0), descent=PLAIN)
    stepper.step(squares(p, q))
    assert [p.item(), q.item()] == pytest.approx([0.9, 1.0])


def test_weight_decay_pulls_to_zero_where_the_gradient_is_zero() -> None:
    p, descent = parameter(1.0), Descent(0.0, 1000, weight_decay=0.5)
    Stepper(Group({"p": p}, 0.1), descent=descent).step(0 * p.sum())
    assert p.item() == pytest.approx(1 - 0.1 * 0.5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_that_of_the_formula(nesterov: bool) -> None:
    """v ← μ v + g;  p ← p - η v, with Nesterov p - η (g + μ v); η on the cosine."""
    p, descent = parameter(1.0), Descent(0.9, 4, nesterov=nesterov)
    stepper = Stepper(Group({"p": p}, 0.1), descent=descent)
    expected, velocity = 1.0, 0.0
    for step in range(3):
        rate = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 4))
        velocity = 0.9 * velocity + expected
        expected -= rate * (expected + 0.9 * velocity if nesterov else velocity)
        stepper.step(squares(p))
        assert p.item() == pytest.approx(expected, abs=1e-6)


def test_nesterov_without_momentum_is_plain_descent() -> None:
    p, q = parameter(1.0), parameter(1.0)
    Stepper(Group({"p": p}, 0.1), descent=Descent(0.0, 9, nesterov=True)).step(squares(p))
    Stepper(Group({"q": q}, 0.1), descent=Descent(0.0, 9)).step(squares(q))
    assert p.item() == q.item()


def test_rate_zero_moves_nothing() -> None:
    p, descent = parameter(1.0), Descent(0.9, 9, nesterov=True, weight_decay=0.5)
    stepper = Stepper(Group({"p": p}, 0.0), descent=descent)
    for _ in range(3):
        stepper.step(squares(p))
    assert p.item() == 1.0


def test_steps_go_down_a_bowl() -> None:
    p = parameter(3.0, -4.0)
    stepper = Stepper(Group({"p": p}, 0.1), descent=Descent(0.5, 20))
    losses = []
    for _ in range(20):
        loss = squares(p)
        losses.append(loss.item())
        stepper.step(loss)
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_the_rate_falls_on_a_cosine_to_zero_and_stays_there() -> None:
    factors = [cosine_decay(step, 10) for step in range(15)]
    assert factors[0] == 1.0
    assert all(later < earlier for earlier, later in pairwise(factors[:11]))
    assert factors[10:] == [0.0] * 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_refused_and_changes_nothing(bad: float) -> None:
    p = parameter(1.0, 2.0)
    stepper = Stepper(Group({"p": p}, 0.1), descent=PLAIN)
    with pytest.raises(NonFiniteStepError, match="step 1 gave a gradient that is NaN or Inf"):
        stepper.step(squares(p) + bad)
    assert p.tolist() == [1.0, 2.0]
    assert stepper.steps == 0


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_refused() -> None:
    p = parameter(0.0, 2.0)
    stepper = Stepper(Group({"p": p}, 0.1), descent=PLAIN)
    with pytest.raises(NonFiniteStepError, match="gradient"):
        stepper.step(p.sqrt().sum())  # its slope at 0 is infinite
    assert p.tolist() == [0.0, 2.0]


def test_a_step_to_weights_that_are_not_finite_is_undone_in_every_group() -> None:
    p, q = parameter(2.0), parameter(1.0)
    stepper = Stepper(Group({"p": p}, 1e10), Group({"q": q}, 0.1), descent=PLAIN)
    with pytest.raises(NonFiniteStepError, match="a weight that is NaN or Inf"):
        stepper.step(p.sum() * 1e30 + q.sum())
    assert (p.item(), q.item()) == (2.0, 1.0)


def test_after_a_refused_step_the_momentum_is_forgotten() -> None:
    p, fresh = parameter(1.0), parameter(0.9)
    stepper = Stepper(Group({"p": p}, 0.1), descent=Descent(0.9, 10**6))
    stepper.step(squares(p))
    with pytest.raises(NonFiniteStepError):
        stepper.step(squares(p) * math.nan)
    stepper.step(squares(p))
    Stepper(Group({"p": fresh}, 0.1), descent=Descent(0.9, 10**6)).step(squares(fresh))
    assert p.item() == pytest.approx(fresh.item(), abs=1e-6)


def test_a_snapshot_is_a_copy_that_brings_back_every_group() -> None:
    p, q = parameter(1.0), parameter(2.0)
    stepper = Stepper(Group({"p": p}, 0.1), Group({"q": q}, 0.1), descent=PLAIN)
    before = stepper.snapshot()
    stepper.step(squares(p, q))
    assert {name: value.item() for name, value in before.items()} == {"p": 1.0, "q": 2.0}
    stepper.restore(before)
    assert (p.item(), q.item()) == (1.0, 2.0)


def test_a_parameter_the_loss_does_not_reach_stays() -> None:
    p, q = parameter(1.0), parameter(1.0)
    Stepper(Group({"p": p, "q": q}, 0.1), descent=PLAIN).step(squares(p))
    assert [p.item(), q.item()] == pytest.approx([0.9, 1.0])
