"""CaRot: each term by hand and beside a plain twin, its limits, and how the teacher follows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptsvc.adapt.carot import (
    CaRot,
    ema_momentum,
    multimodal_contrastive_loss,
    orthogonality_penalty,
    self_distillation_loss,
)
from adaptsvc.adapt.labeled import LabeledBatch
from adaptsvc.errors import ObjectiveError

LOG2, LOG3 = math.log(2), math.log(3)
DTYPES = [torch.float32, torch.bfloat16]
TARGETS = torch.tensor([0, 1, 0, 2, 1])
EMBEDDINGS = torch.eye(4, dtype=torch.float64)[:3]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """float64, with gradient."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).requires_grad_()


def unit(seed: int, rows: int = 5) -> Tensor:
    return F.normalize(drawn(rows, 4, seed=seed).detach(), dim=-1).requires_grad_()


def batch(targets: Tensor = TARGETS, projection: Tensor | None = None) -> LabeledBatch:
    count = len(targets)
    return LabeledBatch(unit(0, count), targets, seeded(), unit(1, count).detach(), projection)


def carot() -> CaRot:
    return CaRot(EMBEDDINGS, 5.0, generator=seeded())


def plain_contrast(images: Tensor, texts: Tensor, targets: list[int], scale: float) -> Tensor:
    """Each sample against itself and those of other classes, in both directions, as a loop."""
    terms = []
    for i, y in enumerate(targets):
        allowed = [k for k in range(len(targets)) if k == i or targets[k] != y]
        own = scale * images[i] @ texts[i]
        to_text = torch.stack([scale * images[i] @ texts[k] for k in allowed])
        to_image = torch.stack([scale * images[k] @ texts[i] for k in allowed])
        terms.append(-(2 * own - to_text.logsumexp(0) - to_image.logsumexp(0)) / 2)
    return torch.stack(terms).mean()


def test_penalty_has_the_value_computed_by_hand() -> None:
    """W = (1, 1; 0, 1): WᵀW - I = (0, 1; 1, 1), of norm √3."""
    weight = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert orthogonality_penalty(weight).item() == pytest.approx(math.sqrt(3))


def test_penalty_of_orthonormal_columns_is_zero_with_a_finite_gradient() -> None:
    weight = torch.eye(5, requires_grad=True)
    columns = weight[:, :3]
    loss = orthogonality_penalty(columns)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert loss.item() == 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1.0, 1 + 1e-6, 1e4])
def test_penalty_has_a_finite_gradient_at_every_size(dtype: torch.dtype, size: float) -> None:
    weight = (size * torch.eye(4)).to(dtype).requires_grad_()
    loss = orthogonality_penalty(weight)
    (gradient,) = torch.autograd.grad(loss, weight)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_penalty_is_unchanged_by_turning_the_input_and_by_the_order_of_columns() -> None:
    weight = drawn(6, 4)
    turn, _ = torch.linalg.qr(drawn(6, 6, seed=1))
    expected = orthogonality_penalty(weight)
    torch.testing.assert_close(orthogonality_penalty(turn @ weight), expected)
    torch.testing.assert_close(orthogonality_penalty(weight[:, [2, 0, 3, 1]]), expected)


def test_descent_on_the_penalty_raises_the_smallest_singular_value() -> None:
    weight = (0.3 * drawn(6, 4)).detach().requires_grad_()
    before = torch.linalg.svdvals(weight).min().item()
    optimizer = torch.optim.SGD([weight], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        orthogonality_penalty(weight).backward()
        optimizer.step()
    assert torch.linalg.svdvals(weight).min().item() > max(0.9, before)


def test_contrast_has_the_value_computed_by_hand() -> None:
    """Own scores log 3, others 0, two classes: log 4/3 in each direction."""
    loss = multimodal_contrastive_loss(torch.eye(2), torch.eye(2), torch.arange(2), LOG3)
    assert loss.item() == pytest.approx(2 * LOG2 - LOG3)


@pytest.mark.parametrize("seed", range(3))
def test_contrast_equals_its_plain_twin_in_value_and_gradient(seed: int) -> None:
    given = unit(seed), unit(seed + 10)
    fast = multimodal_contrastive_loss(*given, TARGETS, 5.0)
    slow = plain_contrast(*given, TARGETS.tolist(), 5.0)
    torch.testing.assert_close(fast, slow)
    gradients = (torch.autograd.grad(loss, given) for loss in (fast, slow))
    torch.testing.assert_close(*gradients)


def test_contrast_of_all_different_classes_is_the_loss_of_clip() -> None:
    scores = 5.0 * unit(0) @ unit(1).T
    own = torch.arange(5)
    clip = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(multimodal_contrastive_loss(unit(0), unit(1), own, 5.0), clip)


def test_samples_of_a_class_do_not_push_each_other_away() -> None:
    """Image 1 turned round is nothing to text 0 of its class, and something to text 2 of another."""
    targets, images, texts = torch.tensor([0, 0, 1]), unit(0, 3).detach(), unit(1, 3)
    turned = images * torch.tensor([[1.0], [-1.0], [1.0]])
    losses = (multimodal_contrastive_loss(given, texts, targets, 5.0) for given in (images, turned))
    before, after = (torch.autograd.grad(loss, texts)[0] for loss in losses)
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[2], before[2])


def test_a_perfect_classifier_reaches_zero_although_classes_repeat() -> None:
    images = EMBEDDINGS[TARGETS].requires_grad_()
    assert multimodal_contrastive_loss(images, EMBEDDINGS[TARGETS], TARGETS, 100.0).item() < 1e-30


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_of_one_class_has_nothing_to_contrast(count: int) -> None:
    images = unit(0, count)
    targets = torch.ones(count, dtype=torch.int64)
    loss = multimodal_contrastive_loss(images, unit(1, count), targets, 100.0)
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.item() == 0
    assert gradient.count_nonzero() == 0


def test_distillation_has_the_value_computed_by_hand() -> None:
    """Student rows and columns (3/4, 1/4), teacher flat: log 4 - log(3) / 2 each way."""
    student = torch.tensor([[LOG3, 0.0], [0.0, LOG3]])
    loss = self_distillation_loss(student, torch.zeros(2, 2))
    assert loss.item() == pytest.approx(2 * LOG2 - LOG3 / 2)


def test_distillation_is_least_where_student_and_teacher_agree() -> None:
    student = drawn(4, 4)
    loss = self_distillation_loss(student, student)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
    assert self_distillation_loss(drawn(4, 4, seed=1), student) > loss


def test_the_teacher_gets_no_gradient() -> None:
    teacher = drawn(4, 4, seed=1)
    assert not self_distillation_loss(drawn(4, 4).detach(), teacher).requires_grad


def test_swapping_images_and_texts_changes_neither_symmetric_loss() -> None:
    student, teacher, images, texts = drawn(4, 4), drawn(4, 4, seed=1), unit(0), unit(1)
    torch.testing.assert_close(
        self_distillation_loss(student.T, teacher.T), self_distillation_loss(student, teacher)
    )
    torch.testing.assert_close(
        multimodal_contrastive_loss(texts, images, TARGETS, 5.0),
        multimodal_contrastive_loss(images, texts, TARGETS, 5.0),
    )


def test_gradients_are_those_of_finite_differences() -> None:
    check, teacher = torch.autograd.gradcheck, drawn(4, 4, seed=1).detach()
    assert check(orthogonality_penalty, (drawn(5, 3),))
    assert check(lambda z: self_distillation_loss(z, teacher), (drawn(4, 4),))
    assert check(lambda i, t: multimodal_contrastive_loss(i, t, TARGETS, 5.0), (unit(0), unit(1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_scores_give_a_finite_value_and_gradient(dtype: torch.dtype, sign: int) -> None:
    images = torch.eye(3, dtype=dtype).requires_grad_()
    texts = (sign * torch.eye(3, dtype=dtype)).requires_grad_()
    scores = 1e4 * images @ texts.T
    loss = multimodal_contrastive_loss(images, texts, torch.tensor([0, 1, 1]), 1e4)
    loss = loss + self_distillation_loss(scores, -scores)
    gradients = torch.autograd.grad(loss, (images, texts))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_momentum_rises_over_a_fifth_of_the_steps_and_stays() -> None:
    rising = [ema_momentum(step, 50) for step in range(51)]
    assert rising[0] == 0.05
    assert rising[5] == pytest.approx(0.475)
    assert rising[:11] == sorted(set(rising[:11]))
    assert all(momentum == 0.9 for momentum in rising[10:])


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_momentum_of_no_such_step_is_refused(step: int, total: int) -> None:
    with pytest.raises(ObjectiveError, match=f"got step {step} of {total}"):
        ema_momentum(step, total)


def test_shapes_and_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"weight \(3,\); expected \(D_in, D\)"):
        orthogonality_penalty(torch.ones(3))
    with pytest.raises(ObjectiveError, match=r"text features \(4, 4\)"):
        multimodal_contrastive_loss(unit(0), unit(1, 4), TARGETS, 5.0)
    with pytest.raises(ObjectiveError, match=r"targets \(4,\)"):
        multimodal_contrastive_loss(unit(0), unit(1), TARGETS[:4], 5.0)
    with pytest.raises(ObjectiveError, match=r"logit_scale 0.0"):
        multimodal_contrastive_loss(unit(0), unit(1), TARGETS, 0.0)
    for student, teacher in (((2, 3), (2, 3)), ((2, 2), (3, 3)), ((2,), (2,)), ((0, 0), (0, 0))):
        with pytest.raises(ObjectiveError, match=r"expected \(N, N\) twice"):
            self_distillation_loss(torch.zeros(student), torch.zeros(teacher))


def test_total_is_the_papers_sum_of_the_terms() -> None:
    given = batch(projection=drawn(6, 4, seed=2))
    assert given.projection is not None
    assert given.teacher_features is not None
    texts = EMBEDDINGS[TARGETS]
    student, teacher = (5.0 * f @ texts.T for f in (given.features, given.teacher_features))
    expected = (
        multimodal_contrastive_loss(given.features, texts, TARGETS, 5.0)
        + 0.2 * orthogonality_penalty(given.projection)
        + 1.5 * self_distillation_loss(student, teacher)
    )
    torch.testing.assert_close(carot()(given).total, expected)


def test_without_a_trained_projection_the_penalty_is_zero() -> None:
    with_projection, without = carot()(batch(projection=drawn(6, 4))), carot()(batch())
    assert without.parts["orthogonality"] == 0
    difference = with_projection.total - without.total
    torch.testing.assert_close(difference, 0.2 * with_projection.parts["orthogonality"])


def test_length_of_the_heads_rows_changes_nothing() -> None:
    objective, longer = carot(), carot()
    with torch.no_grad():
        longer.head.mul_(torch.tensor([[2.0], [5.0], [0.1]]))
    torch.testing.assert_close(longer(batch()).total, objective(batch()).total)
    torch.testing.assert_close(longer.served_head(), EMBEDDINGS)


def test_teacher_follows_the_head_by_the_momentum_and_stays_unit() -> None:
    objective = carot()
    with torch.no_grad():
        objective.head[0] = torch.tensor([0.0, 0.0, 0.0, 3.0])
    objective.update_teacher(0.75)
    expected = F.normalize(torch.tensor([0.75, 0.0, 0.0, 0.25], dtype=torch.float64), dim=0)
    torch.testing.assert_close(objective.teacher_head[0], expected)
    torch.testing.assert_close(objective.teacher_head[1:], EMBEDDINGS[1:])


def test_momentum_of_one_keeps_the_teacher_and_of_zero_copies_the_head() -> None:
    objective = carot()
    with torch.no_grad():
        objective.head.copy_(unit(3, 3))
    objective.update_teacher(1.0)
    torch.testing.assert_close(objective.teacher_head, EMBEDDINGS)
    objective.update_teacher(0.0)
    torch.testing.assert_close(objective.teacher_head, objective.served_head())


def test_a_momentum_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"momentum 1.5; it must lie in \[0, 1\]"):
        carot().update_teacher(1.5)
