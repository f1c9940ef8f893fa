"""Whether a stream has changed, asked after every image without that alone causing alarms; numpy only.

It knows nothing of images or signals: it takes J numbers per image. A test that is looked at again and again
rejects sooner or later whatever happens, so this is none. Each number is ranked among all that came before,
with ties broken at random: as long as nothing changes the ranks are independent and uniform, whatever the
distribution and however small the reference was. A bet on a rank that pays back what was staked on average is
then a fair game, and evidence that multiplies with every won bet, and has one new stake per image, grows by
1 per image on average. It reaches c only once in c images or more.

References:
    Vovk, Nouretdinov & Gammerman, "Testing Exchangeability On-Line", ICML 2003 (the ranks).
    Roberts, "A Comparison of Some Control Chart Procedures", Technometrics 1966 (the sum over changes).
    Shin, Ramdas & Rinaldo, "E-detectors: A Nonparametric Framework for Sequential Change Detection",
    New England Journal of Statistics in Data Science 2024 (why it holds for any distribution).

Deviations: numbers are ranked by bins, so that memory is bounded; those that come during an alarm are not
ranked among by later ones; the evidence is cut off a little above the threshold, so that an alarm can end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from adaptsvc.types import Float64

Counts: TypeAlias = npt.NDArray[np.int64]
# Bets that the normal score of a rank has moved by so many standard deviations: 0.25 needs some 350 images,
# 2 a handful.
SHIFTS = np.array([-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0])
# Bets that the highest such share of the ranks is hit more often, each with a stake that loses slowly.
RARE_SHARES = np.array([1 / 256, 1 / 64, 1 / 16, 1 / 4])
STAKES = np.array([0.03, 0.1, 0.3])
BINS = 32
ENDS_AT = 0.5  # an alarm ends when the evidence, in nats, is under this share of the threshold
ABOVE = 1.0  # nats


@dataclass(frozen=True, slots=True)
class State:
    """All that a detector remembers.

    Attributes:
        edges: (J, E) between the bins, ascending.
        counts: (J, E + 1) how many numbers fell into each.
        evidence: (J, B) logarithm, of each bet.
        images: how many it was told of.
        alarm: whether it is one.
    """

    edges: Float64
    counts: Counts
    evidence: Float64
    images: int = 0
    alarm: bool = False


def threshold(images_per_false_alarm: float) -> float:
    """The evidence, in nats, that is an alarm: so many images go by on average before a false one."""
    return math.log1p(images_per_false_alarm)


def quantile_edges(scores: Float64) -> Float64:
    """Edges (J, E) between bins that hold equally many of (N, J) scores, and two more beyond them all."""
    edges: Float64 = np.quantile(scores, np.linspace(0, 1, BINS + 1), axis=0).T
    return edges.copy()


def ranks(scores: Float64, state: State, draws: Float64) -> tuple[Float64, Counts]:
    """The rank of each score among all that came before, from 0, the highest, to 1; and its bin.

    Args:
        scores: (J,).
        state: what came before.
        draws: (J,) uniform in [0, 1), which break ties.
    """
    bins = (state.edges < scores[:, None]).sum(axis=1)  # (J,)
    upward = state.counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # (J, E + 1): in this bin or over it
    rows = np.arange(len(bins))
    here = state.counts[rows, bins]
    return (upward[rows, bins] - here + draws * (here + 1)) / (upward[:, 0] + 1), bins


def shift_bets(p: Float64) -> Float64:
    """Logarithm (J, B) of what a bet on a shift pays: N(z; δ, 1) / N(z; 0, 1) at the normal score z of p."""
    z = ndtri(1 - np.clip(p, 1e-12, 1 - 1e-12))[:, None]
    result: Float64 = SHIFTS * z - SHIFTS**2 / 2
    return result


def rare_bets(p: Float64) -> Float64:
    """Logarithm (J, B) of what a bet on the highest ranks pays: 1 - λ + λ·[p < ε] / ε."""
    hit = (p[:, None] < RARE_SHARES) / RARE_SHARES  # (J, 4)
    pays = 1 + STAKES[:, None] * (hit[:, None, :] - 1)  # (J, 3, 4)
    result: Float64 = np.log(pays.reshape(len(p), -1))
    return result


Bets: TypeAlias = Literal["shift", "rare"]
BETS: Mapping[Bets, Callable[[Float64], Float64]] = {"shift": shift_bets, "rare": rare_bets}


class ChangeDetector:
    """Tells when any of J numbers per image is no longer distributed as it was.

    Args:
        edges: (J, E) between bins, fixed before `reference` came.
        reference: (N, J), that nothing has changed in.
        bets: ``shift`` for numbers, ``rare`` for what hardly ever happens.
        images_per_false_alarm: at least, on average, as long as nothing changes.
        seed: of the draws that break ties.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> before, same = rng.normal(size=(128, 1)), rng.normal(size=(500, 1))
        >>> moved = rng.normal(1, size=(60, 1))
        >>> detector = ChangeDetector(quantile_edges(before[:64]), before[64:])
        >>> [detector.update(row) for row in same][-1], [detector.update(row) for row in moved][-1]
        (False, True)
    """

    def __init__(
        self,
        edges: Float64,
        reference: Float64,
        *,
        bets: Bets = "shift",
        images_per_false_alarm: float = 60_000,
        seed: int = 0,
    ) -> None:
        scores, width = len(edges), BETS[bets](np.array([0.5])).shape[1]
        counts = np.zeros((scores, edges.shape[1] + 1), np.int64)
        for row in reference:
            counts[np.arange(scores), (edges < row[:, None]).sum(axis=1)] += 1
        self.state = State(edges, counts, np.full((scores, width), -np.inf))
        self._bets = BETS[bets]
        self._seed = seed
        self.threshold = threshold(images_per_false_alarm)
        # Any of J scores may give an alarm, and any of B bets on it must be able to.
        self._most = math.log(images_per_false_alarm * scores * width) + ABOVE

    @property
    def evidence(self) -> Float64:
        """Of each of the J scores, in nats: log(1 + mean over the bets), before any correction for J."""
        return np.logaddexp(0, _mean(self.state.evidence))

    @property
    def statistic(self) -> float:
        """Evidence of a change in any of the J scores, in nats, at least 0."""
        return float(
            np.logaddexp(0, _mean(self.state.evidence).max() - math.log(len(self.state.edges)))
        )

    @property
    def alarm(self) -> bool:
        """Whether there is enough of it."""
        return self.state.alarm

    def update(self, scores: Float64) -> bool:
        """Take in the scores (J,) of one image; whether it is an alarm now."""
        state = self.state
        draws = np.random.default_rng((self._seed, state.images)).random(len(scores))
        p, bins = ranks(scores, state, draws)
        evidence = np.minimum(self._bets(p) + np.logaddexp(0, state.evidence), self._most)
        if not state.alarm:
            state.counts[np.arange(len(bins)), bins] += 1
        self.state = State(state.edges, state.counts, evidence, state.images + 1, state.alarm)
        reached = self.threshold * (ENDS_AT if state.alarm else 1.0)
        alarm = self.statistic >= reached
        self.state = State(state.edges, state.counts, evidence, state.images + 1, alarm)
        return alarm


def _mean(log_values: Float64) -> Float64:
    """Logarithm (J,) of the mean of the values whose logarithms are (J, B)."""
    result: Float64 = np.logaddexp.reduce(log_values, axis=1) - math.log(log_values.shape[1])
    return result
