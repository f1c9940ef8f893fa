"""The UEO loss: its value by hand, its gradient, what leaves it unchanged, what it refuses.

By hand, with N = 2 and C = 3:

    p_1 = (1/2, 1/4, 1/4), H(p_1) = 1.5 log 2        w_1 = 1
    p_2 = (0, 1/2, 1/2),   H(p_2) = log 2            w_2 = 1/3

    first term   (1.5 log 2 + 1/3 log 2) / (4/3) = 11/8 log 2
    marginal     (p_1 + 3 p_2) / 4 = (1/8, 7/16, 7/16)
    its entropy  3/8 log 2 + 7/8 (4 log 2 - log 7) = 31/8 log 2 - 7/8 log 7
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adaptsvc.adapt.ueo import (
    entropy,
    sample_weights,
    universal_entropy,
    universal_entropy_parts,
)
from adaptsvc.errors import ObjectiveError

LOG2, LOG7 = math.log(2), math.log(7)
CONDITIONAL = 11 / 8 * LOG2
MARGINAL = 31 / 8 * LOG2 - 7 / 8 * LOG7
PROBABILITIES = torch.tensor([[1 / 2, 1 / 4, 1 / 4], [0, 1 / 2, 1 / 2]], dtype=torch.float64)
WEIGHTS = torch.tensor([1, 1 / 3], dtype=torch.float64)
NOTHING = -1e4  # a logit whose probability is 0
FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "probabilities": lambda logits, weights: universal_entropy(logits.softmax(-1), weights),
    "logits": lambda logits, weights: loss_of_logits(logits, weights),
}
DTYPES = [torch.float32, torch.bfloat16]


def loss_of_logits(logits: Tensor, weights: Tensor) -> Tensor:
    conditional, marginal = universal_entropy_parts(logits, weights)
    return conditional - marginal


def batch(seed: int = 0, images: int = 5, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits (N, C) and weights (N,) in (0, 1], float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    weights = 0.1 + 0.9 * torch.rand(images, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), weights


def test_entropy_has_the_values_computed_by_hand() -> None:
    assert entropy(PROBABILITIES).tolist() == pytest.approx([1.5 * LOG2, LOG2], abs=1e-12)


def test_universal_entropy_has_the_value_computed_by_hand() -> None:
    loss = universal_entropy(PROBABILITIES, WEIGHTS)
    assert loss.item() == pytest.approx(CONDITIONAL - MARGINAL, abs=1e-12)


def test_parts_have_the_values_computed_by_hand() -> None:
    logits = PROBABILITIES.log().clamp_min(NOTHING)
    conditional, marginal = universal_entropy_parts(logits, WEIGHTS)
    assert conditional.item() == pytest.approx(CONDITIONAL, abs=1e-12)
    assert marginal.item() == pytest.approx(MARGINAL, abs=1e-12)


def test_certain_and_balanced_is_the_minimum_certain_and_collapsed_is_zero() -> None:
    ones = torch.ones(3)
    assert universal_entropy(torch.eye(3), ones).item() == pytest.approx(-math.log(3))
    collapsed = torch.eye(3)[[1, 1, 1]]
    assert universal_entropy(collapsed, ones).item() == pytest.approx(0.0, abs=1e-6)


def test_an_unsure_sample_counts_less_in_the_first_term_and_more_in_the_marginal() -> None:
    sure, unsure = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.4, 0.6]])
    logits = torch.cat([sure, unsure]).log()
    plain, _ = universal_entropy_parts(logits, torch.ones(2))
    conditional, marginal = universal_entropy_parts(logits, torch.tensor([1.0, 1e-4]))
    assert conditional < plain
    assert conditional.item() == pytest.approx(entropy(sure).item(), abs=1e-3)
    assert marginal.item() == pytest.approx(entropy(unsure).item(), abs=1e-3)


def test_gradient_of_universal_entropy_is_that_of_finite_differences() -> None:
    logits, weights = batch()
    probabilities = logits.detach().softmax(-1).requires_grad_()
    assert torch.autograd.gradcheck(universal_entropy, (probabilities, weights.requires_grad_()))


def test_gradients_of_the_parts_are_those_of_finite_differences() -> None:
    logits, weights = batch()
    assert torch.autograd.gradcheck(universal_entropy_parts, (logits, weights.requires_grad_()))


@pytest.mark.parametrize("seed", range(5))
def test_logits_form_equals_probability_form_in_value_and_gradient(seed: int) -> None:
    logits, weights = batch(seed)
    fast, plain = (form(logits, weights) for form in (FORMS["logits"], FORMS["probabilities"]))
    torch.testing.assert_close(fast, plain)
    (fast_gradient,) = torch.autograd.grad(fast, logits)
    (plain_gradient,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(fast_gradient, plain_gradient)


@pytest.mark.parametrize("form", FORMS)
def test_order_of_samples_does_not_matter(form: str) -> None:
    logits, weights = batch()
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(
        FORMS[form](logits[order], weights[order]), FORMS[form](logits, weights)
    )


@pytest.mark.parametrize("form", FORMS)
def test_order_of_classes_does_not_matter(form: str) -> None:
    logits, weights = batch()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(FORMS[form](logits[:, order], weights), FORMS[form](logits, weights))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factor", [1e-3, 0.5, 1e4])
def test_scale_of_the_weights_does_not_matter(form: str, factor: float) -> None:
    logits, weights = batch()
    torch.testing.assert_close(FORMS[form](logits, factor * weights), FORMS[form](logits, weights))


@pytest.mark.parametrize("form", FORMS)
def test_adding_a_constant_to_all_logits_of_a_sample_changes_nothing(form: str) -> None:
    logits, weights = batch()
    torch.testing.assert_close(
        FORMS[form](logits + weights[:, None], weights), FORMS[form](logits, weights)
    )


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_one_give_information_maximisation(form: str) -> None:
    logits, weights = batch()
    p = logits.softmax(-1)
    expected = entropy(p).mean() - entropy(p.mean(dim=0))
    torch.testing.assert_close(FORMS[form](logits, torch.ones_like(weights)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_hot_probabilities_give_a_finite_value_and_gradient(dtype: torch.dtype) -> None:
    probabilities = torch.eye(3, dtype=dtype)[[0, 1, 1, 2]].requires_grad_()
    loss = universal_entropy(probabilities, torch.ones(4, dtype=dtype))
    (gradient,) = torch.autograd.grad(loss, probabilities)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_huge_logits_give_a_finite_value_and_gradient(
    form: str, dtype: torch.dtype, size: float
) -> None:
    logits = (size * torch.tensor([[1, -1, 0], [-1, 1, 1], [1, -1, 0]])).to(dtype).requires_grad_()
    loss = FORMS[form](logits, torch.tensor([1.0, 0.4, 0.9], dtype=dtype))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("function", [universal_entropy, universal_entropy_parts])
@pytest.mark.parametrize(
    ("scores", "weights", "message"),
    [
        ((2, 3), (3,), r"scores \(2, 3\) and weights \(3,\); expected \(N, C\) and \(N,\)"),
        ((2, 3), (2, 1), r"weights \(2, 1\)"),
        ((3,), (3,), r"scores \(3,\)"),
        ((0, 3), (0,), "N at least 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    function: Callable[[Tensor, Tensor], object],
    scores: tuple[int, ...],
    weights: tuple[int, ...],
    message: str,
) -> None:
    with pytest.raises(ObjectiveError, match=message):
        function(torch.ones(scores), torch.ones(weights))


@pytest.mark.parametrize("function", [universal_entropy, universal_entropy_parts])
@pytest.mark.parametrize("weight", [0.0, -0.5, math.nan])
def test_a_weight_that_is_not_positive_is_refused(
    function: Callable[[Tensor, Tensor], object], weight: float
) -> None:
    with pytest.raises(ObjectiveError, match=f"smallest sample weight is {weight}; every weight"):
        function(torch.ones(2, 3), torch.tensor([1.0, weight]))


def test_sample_weights_have_the_values_computed_by_hand() -> None:
    """With s = 2: softmax(log 3, 0) = (3/4, 1/4), and softmax(0, 0) = (1/2, 1/2)."""
    cosines = torch.tensor([[math.log(3) / 2, 0.0], [0.3, 0.3]])
    assert sample_weights(cosines, 2.0, 1.0).tolist() == pytest.approx([0.75, 0.5])


def test_sample_weights_lie_between_one_over_c_and_one() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = 2 * torch.rand(64, 5, generator=generator, dtype=torch.float64) - 1
    weights = sample_weights(cosines, 100.0, 1.0)
    assert weights.shape == (64,)
    assert weights.min() > 1 / 5
    assert weights.max() <= 1


def test_a_higher_temperature_brings_sample_weights_nearer_to_each_other() -> None:
    cosines = torch.tensor([[0.30, 0.20, 0.10], [0.21, 0.20, 0.19]])
    spreads = [
        sample_weights(cosines, 100.0, temperature).diff().abs().item()
        for temperature in (1.0, 10.0, 100.0)
    ]
    assert spreads == sorted(spreads, reverse=True)
    released = sample_weights(cosines, 100.0, 100.0)  # the released code: raw cosines
    torch.testing.assert_close(released, cosines.softmax(-1).amax(-1))


def test_sample_weights_of_raw_cosines_are_those_of_the_released_code() -> None:
    cosines = torch.tensor([[0.3, 0.1, 0.0], [0.2, 0.2, 0.2]], dtype=torch.float64)
    scores = [math.exp(0.3), math.exp(0.1), 1.0]
    expected = torch.tensor([scores[0] / sum(scores), 1 / 3], dtype=torch.float64)
    for found in (sample_weights(cosines, 25.0), sample_weights(cosines, 25.0, 25.0)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("scale", "temperature"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_scale_and_temperature_must_be_positive(scale: float, temperature: float) -> None:
    expected = f"logit scale {scale} and temperature {temperature}; both must be above 0"
    with pytest.raises(ObjectiveError, match=expected):
        sample_weights(torch.zeros(1, 2), scale, temperature)
