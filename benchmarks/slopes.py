"""Whether memory rises: the slope of measurements and where it lies; it measures nothing.

The slope is Theil and Sen's, the median over all pairs of measurements, which a few steps do not move; its
interval comes from resampling the measurements (95 %). RSS moves in steps, so neighbours are alike and the
interval is rather too narrow than too wide: a slope whose interval holds 0 is no leak that could be told.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from adaptsvc.types import Float64
from benchmarks.figures import Figure

RESAMPLED, SURE = 2000, (2.5, 97.5)


def slope(steps: ArrayLike, values: ArrayLike) -> float:
    """Theil and Sen's: the median of the slopes between all pairs.

    Example:
        >>> slope([0, 1, 2, 3, 4], [5.0, 7.0, 9.0, 11.0, 100.0])
        2.0
    """
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] != x[first]  # a resampled measurement may come twice
    rises = (y[second] - y[first])[apart] / (x[second] - x[first])[apart]
    return float(np.median(rises))


def interval(steps: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Where 95 % of the slopes of resampled measurements lie."""
    rng = np.random.default_rng(0)
    x, y = np.asarray(steps), np.asarray(values)
    drawn = (np.sort(rng.integers(0, len(x), len(x))) for _ in range(RESAMPLED))
    found: Float64 = np.array([slope(x[rows], y[rows]) for rows in drawn])
    low, high = np.percentile(found, SURE)
    return float(low), float(high)


def lines(name: str, per: float, found: Sequence[float]) -> list[Figure]:
    """The lines of the table for measurements that are so many thousand swaps or requests apart."""
    return lines_over(name, [per * number for number in range(len(found))], found)


def lines_over(name: str, steps: Sequence[float], found: Sequence[float]) -> list[Figure]:
    """The same for measurements each after so many thousand."""
    low, high = interval(steps, found)
    return [
        Figure(f"{name}: first", found[:1], "MiB"),
        Figure(f"{name}: last", found[-1:], "MiB"),
        Figure(f"{name}: slope", [slope(steps, found)], "MiB/1000"),
        Figure(f"{name}: 95 % of the slope", [low, high], "MiB/1000"),
    ]
