"""Whether one model is worse than another on the same labeled images; numpy and scipy only.

It knows nothing of models. Both tests are functions of the numbers, with no draws. Right or wrong is
McNemar's exact test: valid with a handful of images that changed, where a bootstrap of three changes, all
for the worse, is sure of itself. The NLL is a paired t interval of the mean: its long tail (a few answers
that are surely wrong) widens the interval, so it errs toward no finding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import binomtest, t

from adaptsvc.trust.checks import checked_answers
from adaptsvc.types import Float64


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference, second minus first, and its confidence interval.

    Attributes:
        mean: of the differences.
        low: of the interval; minus infinity where one image says nothing of the spread.
        high: of the interval, likewise infinity.
    """

    mean: float
    low: float
    high: float


def share_of_losses(first: Float64, second: Float64, *, confidence: float = 0.95) -> Interval:
    """Of the images on which one is right and one wrong, the share that the second got wrong.

    An interval wholly above 1/2 says that the second is less accurate (McNemar's exact test, as a
    Clopper-Pearson interval).

    Args:
        first: (N,), 1 where it was right, else 0.
        second: the same, of the other model on the same images.
        confidence: of the interval, in (0, 1).

    Returns:
        Within [0, 1]; all of it where the two never differ.

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: McNemar, Psychometrika 1947; Clopper & Pearson, Biometrika 1934.
    """
    first, second = checked_answers(first, second)
    lost, won = int((first > second).sum()), int((first < second).sum())
    if lost + won == 0:
        return Interval(0.5, 0.0, 1.0)
    found = binomtest(lost, lost + won).proportion_ci(confidence, method="exact")
    return Interval(lost / (lost + won), float(found.low), float(found.high))


def mean_difference(first: Float64, second: Float64, *, confidence: float = 0.95) -> Interval:
    """Mean of second - first over pairs, with the interval of the paired t test.

    Args:
        first: (N,) such as the NLL of each image in nats.
        second: the same, of the other model on the same images.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: no image, shapes that differ, or a value that is not finite.

    Reference: Student, "The Probable Error of a Mean", Biometrika 1908.
    """
    first, second = checked_answers(first, second)
    difference = second - first
    mean = float(difference.mean())
    if len(difference) == 1:
        return Interval(mean, -math.inf, math.inf)
    standard_error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    reach = float(t.ppf((1 + confidence) / 2, len(difference) - 1)) * standard_error
    return Interval(mean, mean - reach, mean + reach)
