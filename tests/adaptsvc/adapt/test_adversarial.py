"""Projected gradient descent: it stays in the ball and in [0, 1], and goes where the loss is high."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from adaptsvc.adapt.adversarial import EPSILON, Attack, Norm, perturb
from adaptsvc.errors import ObjectiveError

SHAPE = (4, 3, 6, 6)
EITHER: tuple[Norm, ...] = ("l2", "linf")
either = pytest.mark.parametrize("norm", EITHER)
ROUNDING = 1e-5


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(low: float = 0.0, high: float = 1.0) -> Tensor:
    """(4, 3, 6, 6) in [low, high]."""
    return low + (high - low) * torch.rand(SHAPE, generator=seeded(1))


def curved(images: Tensor) -> Tensor:
    """A loss with hills and valleys."""
    slopes = torch.randn(SHAPE[1:], generator=seeded(2))
    return (5 * (images * slopes).sum(dim=(1, 2, 3))).sin().sum() + (images**2).sum()


def distance(first: Tensor, second: Tensor, norm: Norm) -> Tensor:
    """(N,)."""
    order = 2 if norm == "l2" else math.inf
    lengths: Tensor = torch.linalg.vector_norm((first - second).flatten(1), ord=order, dim=1)
    return lengths


@either
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 50.0])
@pytest.mark.parametrize("steps", [1, 10])
def test_every_image_stays_within_epsilon_and_in_the_range_of_pixels(
    norm: Norm, epsilon: float, steps: int
) -> None:
    images = pictures()
    worst = perturb(images, curved, Attack(norm, epsilon, steps), seeded())
    assert (distance(worst, images, norm) <= epsilon + ROUNDING).all()
    assert 0 <= worst.min() <= worst.max() <= 1


@either
def test_black_and_white_stay_in_the_range_of_pixels(norm: Norm) -> None:
    for images in (torch.zeros(SHAPE), torch.ones(SHAPE)):
        worst = perturb(images, lambda x: ((x - 0.5) ** 2).sum(), Attack(norm, 0.3), seeded())
        assert 0 <= worst.min() <= worst.max() <= 1


@either
def test_the_loss_rises(norm: Norm) -> None:
    images = pictures(0.2, 0.8)
    worst = perturb(images, curved, Attack(norm, EPSILON[norm]), seeded())
    assert curved(worst) > curved(images)


def test_of_a_linear_loss_the_worst_image_in_the_linf_ball_is_its_corner() -> None:
    slopes = torch.randn(SHAPE, generator=seeded(3))
    images = pictures(0.4, 0.6)
    worst = perturb(images, lambda x: (slopes * x).sum(), Attack("linf", 0.1), seeded())
    torch.testing.assert_close(worst, images + 0.1 * slopes.sign())


def test_in_the_l2_ball_a_linear_loss_rises_by_nearly_epsilon_times_its_slope() -> None:
    slopes = torch.randn(SHAPE, generator=seeded(3))
    images = pictures(0.4, 0.6)
    worst = perturb(images, lambda x: (slopes * x).sum(), Attack("l2", 0.5), seeded())
    risen = (slopes * (worst - images)).flatten(1).sum(dim=1)  # (N,)
    share = risen / (0.5 * slopes.flatten(1).norm(dim=1))
    assert ((share > 0.97) & (share < 1 + ROUNDING)).all()


def test_the_worst_image_beyond_the_range_of_pixels_is_clipped() -> None:
    worst = perturb(torch.full(SHAPE, 0.95), torch.sum, Attack("linf", 0.1), seeded())
    assert torch.equal(worst, torch.ones(SHAPE))


@either
def test_images_do_not_share_their_epsilon(norm: Norm) -> None:
    """A loss that looks at one image moves that one as far as it may."""
    images, attack = pictures(0.4, 0.6), Attack(norm, 0.2)
    worst = perturb(images, lambda x: x[0].sum() + 0 * x.sum(), attack, seeded())
    assert distance(worst, images, norm)[0] == pytest.approx(0.2, abs=1e-3)
    assert worst[0].sum() > images[0].sum()


@either
def test_the_same_seed_gives_the_same_images_bit_for_bit_and_another_seed_others(
    norm: Norm,
) -> None:
    attack = Attack(norm, 0.3, steps=2)
    first, again, other = (perturb(pictures(), curved, attack, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_draws_come_from_the_generator_alone() -> None:
    attack = Attack("linf", 0.3, steps=1)
    first = perturb(pictures(), curved, attack, seeded())
    torch.manual_seed(1234)
    assert torch.equal(first, perturb(pictures(), curved, attack, seeded()))


@either
def test_a_loss_without_a_slope_gives_finite_images_in_the_ball(norm: Norm) -> None:
    images = pictures()
    worst = perturb(images, lambda x: 0 * x.sum(), Attack(norm, 0.2), seeded())
    assert worst.isfinite().all()
    assert (distance(worst, images, norm) <= 0.2 + ROUNDING).all()


def test_the_images_given_are_left_alone_and_those_returned_carry_no_gradient() -> None:
    images = pictures()
    before = images.clone()
    worst = perturb(images, curved, Attack("l2", 0.5), seeded())
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert not worst.requires_grad


@pytest.mark.parametrize(("epsilon", "steps"), [(0.0, 10), (-1.0, 10), (math.nan, 10), (0.5, 0)])
def test_an_attack_that_goes_nowhere_is_refused(epsilon: float, steps: int) -> None:
    with pytest.raises(ObjectiveError, match=f"got epsilon {epsilon} and {steps} steps"):
        Attack("l2", epsilon, steps)
