"""TeS: the loss by hand, its limits, what is not back-propagated, and the head h."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptsvc.adapt.labeled import LabeledBatch
from adaptsvc.adapt.supervised import cross_entropy
from adaptsvc.adapt.tes import TextHead, TextSupervised, text_supervised_loss
from adaptsvc.errors import ObjectiveError

LOG2, LOG3 = math.log(2), math.log(3)
TARGETS = torch.tensor([0, 1, 0, 2, 1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(seed: int) -> Tensor:
    """(5, 3), float64, with gradient."""
    drawn = 2 * torch.randn(5, 3, generator=seeded(seed), dtype=torch.float64)
    return drawn.requires_grad_()


def features(rows: int = 5) -> Tensor:
    drawn = torch.randn(rows, 4, generator=seeded(2), dtype=torch.float64)
    return F.normalize(drawn, dim=-1).requires_grad_()


def tes(**settings: float) -> TextSupervised:
    embeddings = torch.eye(4, dtype=torch.float64)[:3]
    return TextSupervised(embeddings, 5.0, generator=seeded(), **settings)


def plain(vision: Tensor, text: Tensor, lambda_v: float, lambda_t: float) -> Tensor:
    """The definition of methods.md, section 3, sample by sample."""
    terms = []
    for z, u, y in zip(vision, text, TARGETS.tolist(), strict=True):
        hard = torch.tensor([float(k == y) for k in range(3)], dtype=torch.float64)
        q = (1 - lambda_v) * hard + lambda_v * torch.softmax(u.detach(), 0)
        log_p, log_t = (torch.log(torch.softmax(scores, 0)) for scores in (z, u))
        terms.append(-(q * log_p).sum() - lambda_t * log_t[y])
    return torch.stack(terms).mean()


def test_loss_has_the_value_computed_by_hand() -> None:
    """z = (log 3, 0) gives (3/4, 1/4), u = (0, 0) gives (1/2, 1/2); y = 0, λ_v = 0.2, λ_t = 0.5.

    q = (0.9, 0.1): 0.9 log 4/3 + 0.1 log 4 = log 4 - 0.9 log 3, and 0.5 log 2 beside it.
    """
    loss = text_supervised_loss(
        torch.tensor([[LOG3, 0.0]]), torch.zeros(1, 2), torch.tensor([0]), 0.2, 0.5
    )
    assert loss.item() == pytest.approx(2.5 * LOG2 - 0.9 * LOG3)


@pytest.mark.parametrize(("lambda_v", "lambda_t"), [(0.1, 0.3), (0.5, 0.0), (1.0, 2.0)])
def test_loss_equals_its_plain_twin_in_value_and_gradient(lambda_v: float, lambda_t: float) -> None:
    given = logits(0), logits(1)
    fast = text_supervised_loss(*given, TARGETS, lambda_v, lambda_t)
    slow = plain(*given, lambda_v, lambda_t)
    torch.testing.assert_close(fast, slow)
    gradients = (
        torch.autograd.grad(loss, given, allow_unused=True, materialize_grads=True)
        for loss in (fast, slow)
    )
    torch.testing.assert_close(*gradients)


def test_both_weights_zero_is_cross_entropy_of_the_vision_logits() -> None:
    vision = logits(0)
    loss = text_supervised_loss(vision, logits(1), TARGETS, 0.0, 0.0)
    torch.testing.assert_close(loss, cross_entropy(vision, TARGETS))


def test_the_soft_target_sends_no_gradient_to_the_text_logits() -> None:
    text = logits(1)
    loss = text_supervised_loss(logits(0), text, TARGETS, 0.9, 0.0)
    (gradient,) = torch.autograd.grad(loss, text, allow_unused=True, materialize_grads=True)
    assert gradient.count_nonzero() == 0


def test_gradient_to_the_vision_logits_is_that_of_finite_differences() -> None:
    text = logits(1).detach()
    assert torch.autograd.gradcheck(
        lambda z: text_supervised_loss(z, text, TARGETS, 0.1, 0.3), (logits(0),)
    )


def test_gradient_to_the_text_logits_is_that_of_the_text_term() -> None:
    text = logits(1)
    loss = text_supervised_loss(logits(0), text, TARGETS, 0.1, 0.3)
    (gradient,) = torch.autograd.grad(loss, text)
    (expected,) = torch.autograd.grad(0.3 * cross_entropy(text, TARGETS), text)
    torch.testing.assert_close(gradient, expected)


def test_order_of_samples_and_classes_does_not_matter() -> None:
    vision, text = logits(0), logits(1)
    expected = text_supervised_loss(vision, text, TARGETS, 0.1, 0.3)
    samples, classes = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 1])
    shuffled = text_supervised_loss(vision[samples], text[samples], TARGETS[samples], 0.1, 0.3)
    renamed = text_supervised_loss(
        vision[:, classes], text[:, classes], classes.argsort()[TARGETS], 0.1, 0.3
    )
    torch.testing.assert_close(shuffled, expected)
    torch.testing.assert_close(renamed, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_logits_give_a_finite_value_and_gradient(dtype: torch.dtype, sign: int) -> None:
    vision = (1e4 * torch.eye(3)).to(dtype).requires_grad_()
    text = (sign * 1e4 * torch.eye(3)).to(dtype).requires_grad_()
    loss = text_supervised_loss(vision, text, torch.arange(3), 0.1, 0.3)
    gradients = torch.autograd.grad(loss, (vision, text))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("lambda_v", "lambda_t", "message"),
    [
        (-0.1, 0.3, r"lambda_v -0.1; it must lie in \[0, 1\]"),
        (1.1, 0.3, r"lambda_v 1.1"),
        (0.1, -1.0, "lambda_t -1.0"),
        (0.1, math.nan, "lambda_t nan"),
    ],
)
def test_weights_out_of_range_are_refused(lambda_v: float, lambda_t: float, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        text_supervised_loss(logits(0), logits(1), TARGETS, lambda_v, lambda_t)
    with pytest.raises(ObjectiveError, match=message):
        tes(lambda_v=lambda_v, lambda_t=lambda_t)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"vision logits \(5, 3\) and text logits \(5, 2\)"):
        text_supervised_loss(logits(0), logits(1)[:, :2], TARGETS, 0.1, 0.3)
    with pytest.raises(ObjectiveError, match=r"targets \(4,\)"):
        text_supervised_loss(logits(0), logits(1), TARGETS[:4], 0.1, 0.3)


def test_the_objective_is_the_loss_of_its_two_classifiers() -> None:
    objective, rows = tes(), features()
    text = objective.text_head(rows) @ objective.text.T / 0.03
    expected = text_supervised_loss(5.0 * rows[:, :3], text, TARGETS, 0.1, 0.3)
    loss = objective(LabeledBatch(rows, TARGETS, seeded()))
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.parts["vision"] + 0.3 * loss.parts["text"], expected.detach())


def test_without_text_the_objective_is_cross_entropy_and_h_learns_nothing() -> None:
    objective, rows = tes(lambda_v=0.0, lambda_t=0.0), features()
    loss = objective(LabeledBatch(rows, TARGETS, seeded())).total
    loss.backward()
    torch.testing.assert_close(loss, cross_entropy(5.0 * rows[:, :3], TARGETS))
    assert all(p.grad is not None and p.grad.eq(0).all() for p in objective.text_head.parameters())


def test_gradient_through_both_classifiers_is_that_of_finite_differences() -> None:
    objective = tes(lambda_v=0.0)  # with λ_v above 0 the soft target is held fixed
    assert torch.autograd.gradcheck(
        lambda f: objective(LabeledBatch(f, TARGETS, seeded())).total, (features(),)
    )


def test_the_head_h_is_linear_batchnorm_relu_linear_with_unit_rows() -> None:
    head, rows = TextHead(4, generator=seeded()).double(), features()
    hidden = rows @ head.inner.weight.T + head.inner.bias
    normal = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + head.norm.eps).sqrt()
    expected = F.normalize(normal.clamp_min(0) @ head.outer.weight.T + head.outer.bias, dim=1)
    torch.testing.assert_close(head(rows), expected)


def test_a_batch_of_one_is_only_scaled_and_shifted() -> None:
    head, row = TextHead(4, generator=seeded()).double(), features(1)
    with torch.no_grad():
        head.norm.weight.mul_(2.0)
        head.norm.bias.add_(0.5)
    hidden = 2 * (row @ head.inner.weight.T + head.inner.bias) + 0.5
    expected = F.normalize(hidden.clamp_min(0) @ head.outer.weight.T + head.outer.bias, dim=1)
    torch.testing.assert_close(head(row), expected)


def test_a_batch_leaves_no_trace_in_h() -> None:
    head = TextHead(4, generator=seeded()).double()
    expected = head(features())
    head(torch.full((5, 4), torch.nan, dtype=torch.float64))
    assert torch.equal(head(features()), expected)
    assert not dict(head.named_buffers())
