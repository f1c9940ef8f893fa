"""What a benchmark found: samples with their target, as one table and as JSON; it measures nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

WIDTH = 110  # where there is no terminal to ask


@dataclass(frozen=True, slots=True)
class Target:
    """What the median should be: at most, or at least, `value`."""

    kind: Literal["<=", ">="]
    value: float

    def met(self, found: float) -> bool:
        """Whether `found` is on the right side."""
        return found <= self.value if self.kind == "<=" else found >= self.value


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what was measured.
        samples: one value per run, at least one; the line shows median, lowest and highest.
        unit: of the samples; ``x`` for a ratio.
        target: of the median, where there is one.
    """

    name: str
    samples: Sequence[float]
    unit: str
    target: Target | None = None

    @property
    def median(self) -> float:
        """The middle one."""
        return float(median(self.samples))

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without one."""
        return None if self.target is None else self.target.met(self.median)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        target = None if self.target is None else f"{self.target.kind} {self.target.value:g}"
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "runs": len(self.samples),
            "target": target,
            "met": self.met,
        }


def at_most(value: float) -> Target:
    """The median is no higher."""
    return Target("<=", value)


def at_least(value: float) -> Target:
    """The median is no lower."""
    return Target(">=", value)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Run by run, so that what slowed one run slowed both its sides.

    Example:
        >>> ratios([1.0, 3.0], [2.0, 2.0])
        [0.5, 1.5]
    """
    return [top / bottom for top, bottom in zip(above, below, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed.

    Example:
        >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5)
        2.0
    """
    ordered = sorted(values)
    return ordered[max(1, math.ceil(round(share * len(ordered), 6))) - 1]


def publish(title: str, figures: Sequence[Figure], path: Path | None) -> None:
    """Print the table; write the figures where `path` says."""
    where = machine()
    table = Table(title=title, caption=" · ".join(f"{k} {v}" for k, v in where.items()))
    table.add_column("measured")
    for heading in ("median", "lowest - highest", "runs", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(*_cells(figure))
    console = Console()
    Console(width=None if console.is_terminal else WIDTH).print(table)
    if path is not None:
        content = {"title": title, **where, "figures": [each.to_json() for each in figures]}
        path.write_text(json.dumps(content, indent=1) + "\n")


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.2f}",
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cells(figure: Figure) -> tuple[str, ...]:
    low, high = _number(min(figure.samples)), _number(max(figure.samples))
    target = "" if figure.target is None else f"{figure.target.kind} {figure.target.value:g}"
    verdict = {None: "", True: " met", False: " MISSED"}[figure.met]
    middle = f"{_number(figure.median)} {figure.unit}"
    return figure.name, middle, f"{low} - {high}", str(len(figure.samples)), target + verdict


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
