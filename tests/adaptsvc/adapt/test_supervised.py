"""Cross-entropy, label smoothing and supervised contrast: values by hand, plain twins, limits, refusals."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptsvc.adapt.labeled import LabeledBatch
from adaptsvc.adapt.supervised import (
    CONTRASTIVE_TEMPERATURE,
    CrossEntropy,
    LabelSmoothing,
    SupervisedContrastive,
    UnitMLP,
    cross_entropy,
    label_smoothing_cross_entropy,
    seeded_linear,
    soft_cross_entropy,
    supervised_contrastive_loss,
)
from adaptsvc.errors import ObjectiveError

LOG2, LOG3 = math.log(2), math.log(3)
DTYPES = [torch.float32, torch.bfloat16]
TARGETS = torch.tensor([0, 1, 0, 2, 1, 0])  # class 2 has one sample only


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(seed: int = 0) -> Tensor:
    """(6, 3), float64, with gradient."""
    drawn = 2 * torch.randn(6, 3, generator=seeded(seed), dtype=torch.float64)
    return drawn.requires_grad_()


def features(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """(6, 4), unit norm, with gradient."""
    drawn = torch.randn(6, 4, generator=seeded(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1).to(dtype).requires_grad_()


def plain_contrast(rows: Tensor, targets: list[int], temperature: float) -> Tensor:
    """Khosla et al., equation 2, as two loops."""
    terms = []
    for i, anchor in enumerate(rows):
        others = [k for k in range(len(rows)) if k != i]
        positives = [k for k in others if targets[k] == targets[i]]
        total = sum((torch.exp(anchor @ rows[k] / temperature) for k in others), torch.zeros(()))
        each = [torch.log(torch.exp(anchor @ rows[k] / temperature) / total) for k in positives]
        if each:
            terms.append(-torch.stack(each).mean())
    return torch.stack(terms).mean()


def test_cross_entropy_has_the_value_computed_by_hand() -> None:
    """softmax(log 3, 0) = (3/4, 1/4): the mean of log 4/3 and log 4 is log 4 - log(3) / 2."""
    given = torch.tensor([[LOG3, 0.0], [LOG3, 0.0]])
    loss = cross_entropy(given, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(2 * LOG2 - LOG3 / 2)


def test_label_smoothing_has_the_value_computed_by_hand() -> None:
    """Target (0.9, 0.1) for ε = 0.2 and C = 2: 0.9 log 4/3 + 0.1 log 4."""
    loss = label_smoothing_cross_entropy(torch.tensor([[LOG3, 0.0]]), torch.tensor([0]), 0.2)
    assert loss.item() == pytest.approx(2 * LOG2 - 0.9 * LOG3)


def test_soft_cross_entropy_has_the_value_computed_by_hand() -> None:
    loss = soft_cross_entropy(torch.tensor([[LOG3, 0.0]]), torch.tensor([[0.5, 0.5]]))
    assert loss.item() == pytest.approx(2 * LOG2 - LOG3 / 2)


def test_soft_cross_entropy_to_one_hot_targets_is_cross_entropy() -> None:
    hard = F.one_hot(TARGETS, 3).double()
    torch.testing.assert_close(soft_cross_entropy(logits(), hard), cross_entropy(logits(), TARGETS))


def test_soft_cross_entropy_of_no_rows_is_zero_with_a_gradient() -> None:
    nothing = torch.zeros(0, 3, requires_grad=True)
    loss = soft_cross_entropy(nothing, torch.zeros(0, 3))
    loss.backward()
    assert loss.item() == 0


def test_smoothing_of_zero_is_cross_entropy_and_of_one_ignores_the_targets() -> None:
    plain = label_smoothing_cross_entropy(logits(), TARGETS, 0.0)
    assert torch.equal(plain, cross_entropy(logits(), TARGETS))
    flat = [label_smoothing_cross_entropy(logits(), y, 1.0) for y in (TARGETS, TARGETS.flip(0))]
    torch.testing.assert_close(flat[0], flat[1])


def test_contrast_has_the_value_computed_by_hand() -> None:
    """Three equal features: every p is 1/2, so log 2 for both anchors of the class of two."""
    same = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    loss = supervised_contrastive_loss(same, torch.tensor([0, 0, 1]), 0.5)
    assert loss.item() == pytest.approx(LOG2)


@pytest.mark.parametrize("seed", range(3))
def test_contrast_equals_its_plain_twin_in_value_and_gradient(seed: int) -> None:
    rows = features(seed)
    fast = supervised_contrastive_loss(rows, TARGETS, 0.3)
    plain = plain_contrast(rows, TARGETS.tolist(), 0.3)
    torch.testing.assert_close(fast, plain)
    (fast_gradient,) = torch.autograd.grad(fast, rows)
    (plain_gradient,) = torch.autograd.grad(plain, rows)
    torch.testing.assert_close(fast_gradient, plain_gradient)


def test_gradients_are_those_of_finite_differences() -> None:
    soft = logits(1).detach().softmax(-1).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda z: cross_entropy(z, TARGETS), (logits(),))
    assert check(lambda z: label_smoothing_cross_entropy(z, TARGETS, 0.1), (logits(),))
    assert check(soft_cross_entropy, (logits(), soft))
    assert check(lambda f: supervised_contrastive_loss(f, TARGETS, 0.3), (features(),))


def test_order_of_samples_and_names_of_classes_do_not_matter_to_contrast() -> None:
    order, names = torch.tensor([4, 0, 3, 5, 1, 2]), torch.tensor([7, -3, 5])
    expected = supervised_contrastive_loss(features(), TARGETS, 0.3)
    shuffled = supervised_contrastive_loss(features()[order], TARGETS[order], 0.3)
    renamed = supervised_contrastive_loss(features(), names[TARGETS], 0.3)
    torch.testing.assert_close(shuffled, expected)
    assert torch.equal(renamed, expected)


def test_turning_all_features_together_changes_nothing() -> None:
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=seeded(1), dtype=torch.float64))
    torch.testing.assert_close(
        supervised_contrastive_loss(features() @ turn, TARGETS, 0.3),
        supervised_contrastive_loss(features(), TARGETS, 0.3),
    )


@pytest.mark.parametrize("targets", [[0], [0, 1, 2]], ids=["one sample", "all different"])
def test_contrast_without_positives_is_zero_with_a_zero_gradient(targets: list[int]) -> None:
    rows = torch.eye(3)[: len(targets)].requires_grad_()
    loss = supervised_contrastive_loss(rows, torch.tensor(targets), 0.1)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert loss.item() == 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_logits_give_a_finite_value_and_gradient(dtype: torch.dtype) -> None:
    given = (1e4 * torch.tensor([[1, -1, 0], [1, -1, 0]])).to(dtype).requires_grad_()
    targets = torch.tensor([0, 1])
    hard = F.one_hot(targets, 3).to(dtype)
    loss = (
        cross_entropy(given, targets)
        + label_smoothing_cross_entropy(given, targets, 0.1)
        + soft_cross_entropy(given, hard)
    )
    (gradient,) = torch.autograd.grad(loss, given)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_contrast_gives_a_finite_value_and_gradient(dtype: torch.dtype) -> None:
    rows = torch.eye(3, dtype=dtype)[[0, 0, 1, 2]].requires_grad_()
    loss = supervised_contrastive_loss(rows, torch.tensor([0, 0, 1, 1]), 1e-4)  # scores 1e4
    (gradient,) = torch.autograd.grad(loss, rows)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, math.nan])
def test_smoothing_outside_zero_to_one_is_refused(smoothing: float) -> None:
    expected = rf"smoothing {smoothing}; it must lie in \[0, 1\]"
    with pytest.raises(ObjectiveError, match=expected):
        label_smoothing_cross_entropy(logits(), TARGETS, smoothing)
    with pytest.raises(ObjectiveError, match=expected):
        LabelSmoothing(torch.eye(3), 1.0, generator=seeded(), smoothing=smoothing)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ObjectiveError, match=f"temperature {temperature}; it must be above 0"):
        supervised_contrastive_loss(features(), TARGETS, temperature)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for function in (cross_entropy, lambda z, y: supervised_contrastive_loss(z, y, 0.1)):
        with pytest.raises(ObjectiveError, match=r"got \(6, 3\) and targets \(5,\)"):
            function(logits(), TARGETS[:5])
    with pytest.raises(ObjectiveError, match=r"targets from 0 to 2; expected \[0, 2\)"):
        cross_entropy(logits()[:, :2], TARGETS)
    with pytest.raises(ObjectiveError, match=r"soft targets \(6, 2\); expected \(N, C\) twice"):
        soft_cross_entropy(logits(), torch.ones(6, 2))


def test_a_seeded_layer_depends_on_its_generator_alone() -> None:
    first, again, other = (seeded_linear(5, 3, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert first.weight.abs().max() <= 1 / math.sqrt(5)
    assert first.bias.count_nonzero() == 0


def test_a_unit_mlp_answers_with_unit_rows() -> None:
    projected = UnitMLP(4, 9, generator=seeded()).double()(features())
    torch.testing.assert_close(projected.norm(dim=-1), torch.ones(6, dtype=torch.float64))


def test_objectives_are_their_free_functions_on_the_head() -> None:
    embeddings, rows = torch.eye(4, dtype=torch.float64)[:3], features()
    given = LabeledBatch(rows, TARGETS, seeded())
    scores = 5.0 * rows @ embeddings.T
    plain = CrossEntropy(embeddings, 5.0, generator=seeded())(given).total
    smooth = LabelSmoothing(embeddings, 5.0, generator=seeded(), smoothing=0.3)(given).total
    torch.testing.assert_close(plain, cross_entropy(scores, TARGETS))
    torch.testing.assert_close(smooth, label_smoothing_cross_entropy(scores, TARGETS, 0.3))


def test_supervised_contrastive_adds_the_weighted_contrast_of_the_projections() -> None:
    embeddings, rows = torch.eye(4, dtype=torch.float64)[:3], features()
    objective = SupervisedContrastive(embeddings, 5.0, generator=seeded(), weight=0.5)
    loss = objective(LabeledBatch(rows, TARGETS, seeded()))
    contrast = supervised_contrastive_loss(
        objective.projection(rows), TARGETS, CONTRASTIVE_TEMPERATURE
    )
    torch.testing.assert_close(loss.parts["contrastive"], contrast.detach())
    torch.testing.assert_close(
        loss.total, cross_entropy(5.0 * rows @ embeddings.T, TARGETS) + 0.5 * contrast
    )
