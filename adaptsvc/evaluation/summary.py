"""Results to means and standard deviations over seeds; it knows nothing of files or tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptsvc.evaluation.journal import Result
from adaptsvc.evaluation.split import Setting

AVERAGE = "average"


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over n seeds and their sample standard deviation, None of a single one."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Row:
    """A method in a setting on a domain, or on the average of the domains.

    Attributes:
        figures: those that every seed has, by name.
    """

    domain: str
    setting: Setting
    method: str
    figures: dict[str, Spread]


def summarise(results: Sequence[Result]) -> tuple[Row, ...]:
    """One row per domain, setting and method, then the averages over the domains.

    A seed's average is taken over the domains first, so its deviation is that of the average.
    """
    groups: dict[tuple[str, Setting, str], list[Result]] = {}
    for result in results:
        for domain in (result.cell.domain, AVERAGE):
            groups.setdefault((domain, result.cell.setting, result.cell.method), []).append(result)
    ordered = sorted(groups.items(), key=lambda group: group[0][0] == AVERAGE)
    return tuple(Row(*key, figures=_spreads(members)) for key, members in ordered)


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation.

    Example:
        >>> spread([0.25, 0.5, 0.75])
        Spread(mean=0.5, std=0.25, n=3)
    """
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std, len(values))


def _spreads(results: Sequence[Result]) -> dict[str, Spread]:
    seeds: dict[int, list[Mapping[str, float]]] = {}
    for result in results:
        seeds.setdefault(result.cell.seed, []).append(result.figures)
    names = [name for name in results[0].figures if all(name in r.figures for r in results)]
    return {
        name: spread([float(np.mean([f[name] for f in figures])) for figures in seeds.values()])
        for name in names
    }
