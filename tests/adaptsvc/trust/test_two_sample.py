"""Claims about one look at two samples: values by hand, no dependence on size, honest p-values."""

from __future__ import annotations

import numpy as np
import pytest

from adaptsvc.trust.two_sample import (
    class_difference,
    distribution_difference,
    energy_difference,
    share_difference,
    stability_index,
)

RNG = np.random.default_rng(3)


def test_the_energy_distance_of_a_few_points_is_as_by_hand() -> None:
    first, second = np.array([[0.0], [2.0]]), np.array([[4.0], [6.0]])
    found = energy_difference(first, second)  # means: across 4, inside 2 and 2
    assert [found.distance, found.effect] == pytest.approx([4.0, 0.5])


def test_the_effect_of_many_points_is_that_of_few() -> None:
    def mean(count: int, shift: float) -> float:
        pairs = [
            (RNG.normal(size=(count, 3)), RNG.normal(shift, size=(count, 3))) for _ in range(30)
        ]
        return float(np.mean([energy_difference(a, b).effect for a, b in pairs]))

    assert mean(20, 0.0) == pytest.approx(0, abs=0.01)
    assert mean(20, 1.0) == pytest.approx(mean(150, 1.0), abs=0.04)


def test_the_p_value_is_small_for_a_change_and_uniform_without_one() -> None:
    same = [
        energy_difference(RNG.normal(size=(20, 2)), RNG.normal(size=(15, 2)), seed).p_value
        for seed in range(100)
    ]
    assert 0.25 < np.mean(np.array(same) < 0.4) < 0.55
    assert energy_difference(RNG.normal(size=(40, 2)), RNG.normal(1, size=(40, 2))).p_value == 0.002


def test_points_that_are_all_the_same_do_not_differ() -> None:
    found = energy_difference(np.ones((5, 2)), np.ones((5, 2)))
    assert (found.effect, found.distance, found.p_value) == (0.0, 0.0, 1.0)


def test_numbers_that_do_not_overlap_are_as_far_apart_as_can_be() -> None:
    found = distribution_difference(np.arange(30.0), np.arange(50.0, 90.0))
    assert found.effect == 1.0
    assert found.p_value < 1e-9


def test_classes_differ_from_not_at_all_to_entirely() -> None:
    assert class_difference(np.array([5.0, 5.0]), np.array([50.0, 50.0])).effect == 0.0
    assert class_difference(np.array([9.0, 0.0]), np.array([0.0, 4.0])).effect == 1.0
    one = class_difference(np.array([9.0, 0.0]), np.array([3.0, 0.0]))
    assert (one.effect, one.p_value) == (0.0, 1.0)
    by_hand = class_difference(np.array([5.0, 5.0]), np.array([7.5, 2.5])).effect
    p, q, m = np.array([0.5, 0.5]), np.array([0.75, 0.25]), np.array([0.625, 0.375])
    assert by_hand == pytest.approx(((p * np.log2(p / m)).sum() + (q * np.log2(q / m)).sum()) / 2)


def test_the_stability_index_is_as_by_hand_and_finite_for_a_class_that_is_new() -> None:
    first, second = np.array([60.0, 40.0]), np.array([40.0, 60.0])
    p, q = np.array([60.5, 40.5]) / 101, np.array([40.5, 60.5]) / 101
    assert stability_index(first, second) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert 1 < stability_index(np.array([99.0, 0.0]), np.array([50.0, 49.0])) < 10


def test_shares_are_compared_exactly() -> None:
    found = share_difference((0, 100), (5, 50))
    assert found.effect == pytest.approx(0.1)
    assert found.p_value == pytest.approx(0.0037, abs=5e-4)  # C(50, 5) / C(150, 5)
    assert share_difference((0, 100), (0, 50)).p_value == 1.0
