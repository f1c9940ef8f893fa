"""What every objective must do. One that is added to `OBJECTIVES` is checked by being there."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adaptsvc.adapt.objective import OBJECTIVES, Objective, objective
from adaptsvc.errors import ObjectiveError

LOG2 = math.log(2)
every_objective = pytest.mark.parametrize("chosen", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def batch(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits (6, 4) and weights (6,) in (0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    weights = 0.1 + 0.9 * torch.rand(6, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), weights.to(dtype)


@every_objective
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_total_parts_and_gradient_are_finite(
    chosen: Objective, size: float, dtype: torch.dtype
) -> None:
    logits, weights = batch(dtype=dtype)
    loss = chosen(size * logits, weights)
    loss.total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert all(value.isfinite() for value in (loss.total, *loss.parts.values()))


@every_objective
def test_total_is_a_scalar_and_parts_are_named_and_detached(chosen: Objective) -> None:
    loss = chosen(*batch())
    assert loss.total.shape == ()
    assert loss.total.requires_grad
    assert loss.parts
    assert all(not part.requires_grad and part.shape == () for part in loss.parts.values())


@every_objective
def test_gradient_is_that_of_finite_differences(chosen: Objective) -> None:
    logits, weights = batch()
    assert torch.autograd.gradcheck(lambda z: chosen(z, weights).total, (logits,))


@every_objective
def test_same_input_gives_the_same_bits(chosen: Objective) -> None:
    first, second = chosen(*batch(3)), chosen(*batch(3))
    assert first.total.item() == second.total.item()
    assert first.parts == second.parts


@every_objective
def test_order_of_samples_and_classes_does_not_matter(chosen: Objective) -> None:
    logits, weights = batch()
    samples, classes = torch.tensor([5, 2, 0, 4, 1, 3]), torch.tensor([2, 0, 3, 1])
    expected = chosen(logits, weights).total
    torch.testing.assert_close(chosen(logits[samples], weights[samples]).total, expected)
    torch.testing.assert_close(chosen(logits[:, classes], weights).total, expected)


@every_objective
def test_input_is_not_changed(chosen: Objective) -> None:
    logits, weights = batch()
    before = logits.detach().clone(), weights.clone()
    chosen(logits, weights).total.backward()
    assert torch.equal(logits.detach(), before[0])
    assert torch.equal(weights, before[1])


@every_objective
def test_gradient_descent_lowers_the_total(chosen: Objective) -> None:
    logits, weights = batch()
    optimizer = torch.optim.SGD([logits], lr=1.0)
    totals = []
    for _ in range(15):
        loss = chosen(logits, weights)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        totals.append(loss.total.item())
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < totals[0] - 0.1


@every_objective
def test_shapes_that_do_not_fit_are_refused(chosen: Objective) -> None:
    with pytest.raises(ObjectiveError, match=r"expected \(N, C\) and \(N,\)"):
        chosen(torch.zeros(2, 3), torch.ones(3))


def test_totals_are_the_documented_combinations_of_the_parts() -> None:
    logits, weights = batch()
    for name, signs in (("ueo", (1, -1)), ("entropy-minimisation", (1, 0))):
        loss = OBJECTIVES[name](logits, weights)
        parts = loss.parts["conditional_entropy"], loss.parts["marginal_entropy"]
        torch.testing.assert_close(
            loss.total.detach(), signs[0] * parts[0] + signs[1] * parts[1], atol=0, rtol=1e-12
        )


@pytest.mark.parametrize("name", ["information-maximisation", "entropy-minimisation"])
def test_baselines_ignore_the_weights(name: str) -> None:
    logits, weights = batch()
    plain = OBJECTIVES[name](logits, torch.ones_like(weights))
    assert OBJECTIVES[name](logits, weights).total.item() == plain.total.item()


def test_information_maximisation_is_ueo_with_weights_of_one() -> None:
    logits, weights = batch()
    expected = OBJECTIVES["ueo"](logits, torch.ones_like(weights)).total
    assert OBJECTIVES["information-maximisation"](logits, weights).total == expected


def test_entropy_minimisation_has_the_value_computed_by_hand() -> None:
    """Two samples, softmax (1/2, 1/2) and (1, 0): the mean of log 2 and 0."""
    logits = torch.tensor([[0.0, 0.0], [1e4, 0.0]])
    total = OBJECTIVES["entropy-minimisation"](logits, torch.ones(2)).total
    assert total.item() == pytest.approx(LOG2 / 2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_found_by_name(name: str) -> None:
    assert objective(name) is OBJECTIVES[name]


def test_an_unknown_name_is_refused_naming_the_choices() -> None:
    with pytest.raises(ObjectiveError, match="no objective is called 'tent'; choose one of ueo, "):
        objective("tent")
