"""How far two samples are apart, and whether that could be chance: one look at two sets; numpy only.

It knows nothing of streams. A p-value here is of one look; `adaptsvc.trust.sequential` is for looking
all the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import chi2_contingency, fisher_exact, ks_2samp

from adaptsvc.types import Float64

PERMUTATIONS = 499
HALF_AN_IMAGE = (
    0.5  # added to every count, so that an empty class is not infinitely far from a rare one
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two samples, compared.

    Attributes:
        effect: how far they are apart; 0 is not at all, 1 as far as can be.
        p_value: how often chance alone makes it so much or more, in [0, 1].
    """

    effect: float
    p_value: float


@dataclass(frozen=True, slots=True)
class EnergyDifference(Difference):
    """Two samples of points; `distance` is 2·E|X-Y| - E|X-X'| - E|Y-Y'|."""

    distance: float


def energy_difference(first: Float64, second: Float64, seed: int = 0) -> EnergyDifference:
    """Energy distance of points (N, D) and (M, D), by permutation.

    effect = (2·E|X-Y| - E|X-X'| - E|Y-Y'|) / 2·E|X-Y|, each mean over pairs of different points, so that it
    does not depend on how many there are; a little under 0 when nothing differs. Unlike a kernel's, its value
    needs no bandwidth.

    Args:
        first: N >= 2 points.
        second: M >= 2 points.
        seed: of the permutations.

    Reference: Székely & Rizzo, "Energy Statistics: A Class of Statistics Based on Distances", Journal of
    Statistical Planning and Inference 2013.
    """
    points, count = np.concatenate([first, second]), len(first)
    distances = cdist(points, points)  # (N + M, N + M)
    generator = np.random.default_rng(seed)
    members = np.zeros((PERMUTATIONS + 1, len(points)))
    members[:, :count] = 1
    members[1:] = generator.permuted(members[1:], axis=1)
    among = members @ distances  # (P + 1, N + M)
    inside = (among * members).sum(axis=1)
    across = among.sum(axis=1) - inside
    outside = distances.sum() - inside - 2 * across
    other = len(points) - count
    twice = 2 * across / (count * other)
    found = twice - inside / (count * (count - 1)) - outside / (other * (other - 1))  # (P + 1,)
    p_value = float((found >= found[0] - 1e-12).mean())  # itself included: never 0
    effect = float(found[0] / twice[0]) if twice[0] > 0 else 0.0
    return EnergyDifference(effect, p_value, float(found[0]))


def distribution_difference(first: Float64, second: Float64) -> Difference:
    """Kolmogorov-Smirnov distance of numbers (N,) and (M,)."""
    found = ks_2samp(first, second, method="asymp")
    return Difference(float(found.statistic), float(np.clip(found.pvalue, 0, 1)))


def class_difference(first: Float64, second: Float64) -> Difference:
    """Jensen-Shannon divergence, base 2, of two counts (C,); the p-value is of the chi-squared test.

    Example:
        >>> class_difference(np.array([9.0, 0.0]), np.array([0.0, 9.0])).effect
        1.0
    """
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    seen = np.flatnonzero(middle)
    if len(seen) < 2:
        return Difference(0.0, 1.0)
    test = chi2_contingency(np.stack([first, second])[:, seen])
    effect = (_bits(p, middle) + _bits(q, middle)) / 2
    return Difference(float(effect), float(test.pvalue))


def share_difference(first: tuple[int, int], second: tuple[int, int]) -> Difference:
    """How far two shares are apart, each as how many of how many; Fisher's exact test."""
    (a, n), (b, m) = first, second
    p_value = float(fisher_exact(np.array([[a, n - a], [b, m - b]])).pvalue)
    return Difference(abs(a / n - b / m), min(1.0, p_value))


def stability_index(first: Float64, second: Float64) -> float:
    """Population stability index of two counts (C,), half an image added to each: Σ (q - p)·log(q / p).

    Example:
        >>> round(stability_index(np.array([50.0, 50.0]), np.array([30.0, 70.0])), 3)
        0.166

    Reference: Siddiqi, "Credit Risk Scorecards", 2006; under 0.1 is called little, over 0.25 much.
    """
    p, q = first + HALF_AN_IMAGE, second + HALF_AN_IMAGE
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _bits(p: Float64, middle: Float64) -> float:
    seen = p > 0
    return float((p[seen] * np.log2(p[seen] / middle[seen])).sum())
