"""Core-tuning: the focal contrast beside a two-loop twin, the mixed pairs by hand, what joins them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptsvc.adapt.core import (
    LAMBDA_POSITIVE,
    PROJECTION_SIZE,
    CoreTuning,
    focal_contrastive_loss,
    mix_hard_negatives,
    mix_hard_positives,
    mixing_coefficients,
)
from adaptsvc.adapt.labeled import LabeledBatch
from adaptsvc.adapt.supervised import cross_entropy
from adaptsvc.errors import ObjectiveError

LOG2 = math.log(2)
DTYPES = [torch.float32, torch.bfloat16]
TARGETS = torch.tensor([0, 1, 0, 2, 1, 0])  # class 2 has one sample only
SAME = TARGETS[:, None] == TARGETS[None, :]
ANGLES = torch.tensor([0, 20, 60, 90, 130], dtype=torch.float64) * math.pi / 180
FAN = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)  # (5, 2)
FAN_TARGETS = torch.tensor([0, 0, 0, 1, 1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(seed: int = 0) -> Tensor:
    """(6, 4), unit norm, float64, with gradient."""
    drawn = torch.randn(6, 4, generator=seeded(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1).requires_grad_()


def plain_focal(rows: Tensor, mask: list[list[bool]], temperature: float) -> Tensor:
    """The definition of methods.md, section 2, as two loops."""
    terms = []
    for i, anchor in enumerate(rows):
        others = [k for k in range(len(rows)) if k != i]
        total = sum((torch.exp(anchor @ rows[k] / temperature) for k in others), torch.zeros(()))
        chances = [torch.exp(anchor @ rows[j] / temperature) / total for j in others if mask[i][j]]
        if chances:
            terms.append(torch.stack([-(1 - p) * torch.log(p) for p in chances]).mean())
    return torch.stack(terms).mean()


def mix(first: Tensor, second: Tensor, share: float) -> Tensor:
    return F.normalize(share * first + (1 - share) * second, dim=0)


def test_focal_loss_has_the_value_computed_by_hand() -> None:
    """Three equal features: p = 1/2, so (1 - 1/2) log 2 for each anchor with a positive."""
    rows = torch.tensor([[0.0, 1.0]]).expand(3, 2)
    mask = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    assert focal_contrastive_loss(rows, mask, 0.07).item() == pytest.approx(LOG2 / 2)


def test_focal_loss_of_unequal_neighbours_has_the_value_computed_by_hand() -> None:
    """Anchor 0 meets scores log 3 and 0 (p = 3/4): (1/4) log(4/3) for its one positive."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[0, 1] = True
    loss = focal_contrastive_loss(rows, mask, 1 / math.log(3))
    assert loss.item() == pytest.approx(math.log(4 / 3) / 4)


@pytest.mark.parametrize("seed", range(4))
def test_focal_loss_equals_its_plain_twin_in_value_and_gradient(seed: int) -> None:
    rows = features(seed)
    mask = torch.rand(6, 6, generator=seeded(seed)) < 0.4  # neither symmetric nor of classes
    fast = focal_contrastive_loss(rows, mask, 0.3)
    plain = plain_focal(rows, mask.tolist(), 0.3)
    torch.testing.assert_close(fast, plain)
    (fast_gradient,) = torch.autograd.grad(fast, rows)
    (plain_gradient,) = torch.autograd.grad(plain, rows)
    torch.testing.assert_close(fast_gradient, plain_gradient)


def test_an_anchor_with_one_positive_only_agrees_with_the_plain_twin() -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[4, 1] = True
    rows = features()
    torch.testing.assert_close(
        focal_contrastive_loss(rows, mask, 0.07), plain_focal(rows, mask.tolist(), 0.07)
    )


def test_focal_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda f: focal_contrastive_loss(f, SAME, 0.3), (features(),))


def test_the_diagonal_of_the_mask_is_ignored() -> None:
    eye = torch.eye(6, dtype=torch.bool)
    with_self = focal_contrastive_loss(features(), SAME | eye, 0.07)
    assert torch.equal(with_self, focal_contrastive_loss(features(), SAME & ~eye, 0.07))


def test_order_of_samples_does_not_matter_to_the_focal_loss() -> None:
    order = torch.tensor([4, 0, 3, 5, 1, 2])
    torch.testing.assert_close(
        focal_contrastive_loss(features()[order], SAME[order][:, order], 0.07),
        focal_contrastive_loss(features(), SAME, 0.07),
    )


def test_the_mask_is_not_changed() -> None:
    mask = SAME.clone()
    focal_contrastive_loss(features(), mask, 0.07)
    assert torch.equal(mask, SAME)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("diagonal", [True, False])
def test_no_positives_give_zero_with_a_zero_gradient(count: int, diagonal: bool) -> None:
    rows = torch.eye(3)[:count].requires_grad_()
    mask = torch.eye(count, dtype=torch.bool) & diagonal
    loss = focal_contrastive_loss(rows, mask, 0.07)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert loss.item() == 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.07, 1e-4])
def test_saturated_pairs_give_a_finite_value_and_gradient(
    dtype: torch.dtype, temperature: float
) -> None:
    rows = torch.eye(3, dtype=dtype)[[0, 0, 1, 2]].requires_grad_()
    loss = focal_contrastive_loss(rows, torch.ones(4, 4, dtype=torch.bool), temperature)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("rows", "mask", "message"),
    [
        (torch.eye(3), torch.ones(3, 2).bool(), r"mask \(3, 2\); expected \(N, D\) and \(N, N\)"),
        (torch.ones(3), torch.ones(3, 3).bool(), r"features \(3,\)"),
        (torch.ones(0, 3), torch.ones(0, 0).bool(), "N at least 1"),
        (torch.eye(3), torch.ones(3, 3), "mask of type torch.float32; expected torch.bool"),
    ],
)
def test_features_and_masks_that_do_not_fit_are_refused(
    rows: Tensor, mask: Tensor, message: str
) -> None:
    with pytest.raises(ObjectiveError, match=message):
        focal_contrastive_loss(rows, mask, 0.07)


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ObjectiveError, match=r"temperature 0.0; it must be above 0"):
        focal_contrastive_loss(features(), SAME, 0.0)


def test_hard_positives_are_the_farthest_of_the_class_with_the_nearest_of_another() -> None:
    """On a fan of angles 0, 20, 60 (class 0) and 90, 130 (class 1), degrees."""
    mixed, carried = mix_hard_positives(FAN, FAN_TARGETS, torch.full((5,), 0.8))
    pairs = [(2, 3), (2, 3), (0, 3), (4, 2), (3, 2)]  # hardest positive, hardest negative
    expected = torch.stack([mix(FAN[p], FAN[n], 0.8) for p, n in pairs])
    torch.testing.assert_close(mixed, expected, atol=1e-7, rtol=0)
    assert carried.tolist() == FAN_TARGETS.tolist()


def test_anchors_without_a_partner_get_no_hard_positive() -> None:
    mixed, carried = mix_hard_positives(features(), TARGETS, torch.ones(6))
    assert mixed.shape == (5, 4)
    assert carried.tolist() == [0, 1, 0, 1, 0]
    for targets in (torch.zeros(6, dtype=torch.int64), torch.arange(6)):
        assert mix_hard_positives(features(), targets, torch.ones(6))[0].shape == (0, 4)


def test_each_anchor_has_its_own_share() -> None:
    shares = torch.tensor([0.8, 0.85, 0.9, 0.95, 1.0], dtype=torch.float64)
    mixed, _ = mix_hard_positives(FAN, FAN_TARGETS, shares)
    torch.testing.assert_close(mixed[1], mix(FAN[2], FAN[3], 0.85))
    torch.testing.assert_close(mixed[4], FAN[3])


def test_order_of_samples_orders_the_hard_positives_and_changes_none() -> None:
    order, shares = torch.tensor([4, 0, 3, 5, 1, 2]), torch.linspace(0.8, 1, 6)
    straight, _ = mix_hard_positives(features(), TARGETS, shares)
    shuffled, _ = mix_hard_positives(features()[order], TARGETS[order], shares[order])
    rows_of = {anchor: row for row, anchor in enumerate(i for i in range(6) if i != 3)}
    expected = straight[[rows_of[i] for i in order.tolist() if i != 3]]
    torch.testing.assert_close(shuffled, expected)


@pytest.mark.parametrize("seed", range(3))
def test_hard_negatives_and_their_labels_lie_between_the_anchor_and_another_class(
    seed: int,
) -> None:
    shares = torch.full((6,), 0.9, dtype=torch.float64)
    mixed, soft = mix_hard_negatives(features(), TARGETS, shares, 3, seeded(seed))
    assert mixed.shape == (6, 4)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(6, dtype=torch.float64))
    for i, (row, label) in enumerate(zip(mixed, soft, strict=True)):
        assert label[TARGETS[i]].item() == pytest.approx(0.1)
        others = [n for n in range(6) if label[TARGETS[n]] > 0.5]
        candidates = [mix(features()[n], features()[i], 0.9) for n in others]
        assert TARGETS[i] not in TARGETS[others]
        assert min((row - candidate).norm().item() for candidate in candidates) < 1e-9


def test_every_sample_of_another_class_is_drawn_equally_often() -> None:
    targets, counts = torch.tensor([0, 1, 1, 2]), torch.zeros(4)
    rows, generator = torch.eye(4), seeded()
    for _ in range(600):
        mixed, _ = mix_hard_negatives(rows, targets, torch.ones(4), 3, generator)
        counts += mixed[0]
    assert counts[0] == 0
    assert counts[1:].min() > 160
    assert counts[1:].max() < 240


def test_hard_negatives_follow_the_generator_alone() -> None:
    shares = torch.full((6,), 0.8)
    first, again, other = (
        mix_hard_negatives(features(), TARGETS, shares, 3, seeded(seed))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_of_one_class_has_no_hard_negatives(count: int) -> None:
    targets = torch.ones(count, dtype=torch.int64)
    mixed, soft = mix_hard_negatives(torch.eye(3)[:count], targets, torch.ones(count), 2, seeded())
    assert mixed.shape == (0, 3)
    assert soft.shape == (0, 2)


def test_mixed_features_have_unit_norm_and_right_gradients() -> None:
    shares = torch.linspace(0.8, 1, 6, dtype=torch.float64)

    def both(rows: Tensor) -> Tensor:
        positives, _ = mix_hard_positives(rows, TARGETS, shares)
        return torch.cat([positives, mix_hard_negatives(rows, TARGETS, shares, 3, seeded())[0]])

    torch.testing.assert_close(both(features()).norm(dim=1), torch.ones(11, dtype=torch.float64))
    assert torch.autograd.gradcheck(both, (features(),))


def test_mixing_refuses_shares_that_do_not_fit() -> None:
    with pytest.raises(ObjectiveError, match=r"got \(5,\) mixing coefficients; expected \(6,\)"):
        mix_hard_positives(features(), TARGETS, torch.ones(5))
    with pytest.raises(ObjectiveError, match=r"got \(5,\) mixing coefficients; expected \(6,\)"):
        mix_hard_negatives(features(), TARGETS, torch.ones(5), 3, seeded())


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_mixing_coefficients_have_the_moments_of_beta(alpha: float) -> None:
    """Beta(α, α): mean 1/2, variance 1 / (4 (2α + 1))."""
    lam = mixing_coefficients(20_000, alpha, 0.0, seeded())
    assert lam.isfinite().all()
    assert lam.mean().item() == pytest.approx(0.5, abs=0.02)
    assert lam.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_mixing_coefficients_are_clipped_and_reproducible() -> None:
    first, again = (mixing_coefficients(500, 1.0, 0.8, seeded(3)) for _ in range(2))
    assert first.min().item() == 0.8
    assert first.max().item() <= 1
    assert torch.equal(first, again)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e6])
def test_extreme_alpha_gives_no_nan(alpha: float) -> None:
    assert mixing_coefficients(1000, alpha, 0.8, seeded()).isfinite().all()


@pytest.mark.parametrize(
    ("alpha", "smallest", "message"),
    [(0.0, 0.8, "alpha 0.0; it must be above 0"), (1.0, 1.2, "smallest 1.2; it must lie in")],
)
def test_mixing_settings_out_of_range_are_refused(
    alpha: float, smallest: float, message: str
) -> None:
    with pytest.raises(ObjectiveError, match=message):
        mixing_coefficients(3, alpha, smallest, seeded())


def core(**settings: float) -> CoreTuning:
    return CoreTuning(torch.eye(4, dtype=torch.float64)[:3], 5.0, generator=seeded(), **settings)


def test_total_is_both_cross_entropies_plus_eta_times_the_contrast() -> None:
    loss = core(eta=0.1)(LabeledBatch(features(), TARGETS, seeded()))
    parts = loss.parts
    expected = parts["cross_entropy"] + parts["hard_negatives"] + 0.1 * parts["contrastive"]
    torch.testing.assert_close(loss.total.detach(), expected)
    assert parts["contrastive"] > 0


def test_the_contrast_is_the_plain_twin_over_real_and_generated_samples() -> None:
    """Real anchors; generated positives are positives of their class, generated negatives of none."""
    objective, generator = core(), seeded(7)
    loss = objective(LabeledBatch(features(), TARGETS, seeded(7)))
    lam = mixing_coefficients(6, 1.0, LAMBDA_POSITIVE, generator)
    positives, carried = mix_hard_positives(features(), TARGETS, lam)
    lam = mixing_coefficients(6, 1.0, 0.8, generator)
    negatives, _ = mix_hard_negatives(features(), TARGETS, lam, 3, generator)
    labels = [*TARGETS.tolist(), *carried.tolist(), *(-1 for _ in negatives)]
    mask = [[i < 6 and labels[i] == labels[j] for j in range(17)] for i in range(17)]
    projected = objective.projection(torch.cat([features(), positives, negatives]))
    expected = plain_focal(projected, mask, 0.07)
    torch.testing.assert_close(loss.parts["contrastive"], expected.detach())


def test_a_batch_of_one_class_leaves_cross_entropy_and_contrast() -> None:
    rows, targets = features(), torch.zeros(6, dtype=torch.int64)
    loss = core()(LabeledBatch(rows, targets, seeded()))
    assert loss.parts["hard_negatives"] == 0
    torch.testing.assert_close(
        loss.parts["cross_entropy"], cross_entropy(5.0 * rows[:, :3], targets).detach()
    )


def test_projection_answers_with_the_papers_width() -> None:
    assert core().projection(features()).shape == (6, PROJECTION_SIZE)


@pytest.mark.parametrize("setting", ["eta", "alpha"])
def test_eta_and_alpha_must_be_positive(setting: str) -> None:
    with pytest.raises(ObjectiveError, match=f"{setting} 0.0; it must be above 0"):
        core(**{setting: 0.0})
