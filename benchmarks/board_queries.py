"""What a dashboard of k8s/grafana shows: its panels, what they ask, and what Prometheus answers.

It knows nothing of drawing. Like Grafana it fills in the variables, aligns the time to the step, leaves a gap
where a value is missing, and makes one region of annotations that follow each other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deploy.grafana.variables import filled, rate_window_s

FOLDER = Path(__file__).parents[1] / "k8s" / "grafana"
KINDS = ("row", "stat", "timeseries")
SCRAPE_S = 5  # as deploy/prometheus.yml has it
POINTS = 400  # of a line, at most


@dataclass(frozen=True, slots=True)
class Place:
    """Where a panel is, in cells of a grid of 24 columns."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True, slots=True)
class Query:
    """An expression with its variables, and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Step:
    """From where on a value has this color."""

    value: float
    color: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel, or the heading of a row of them.

    Attributes:
        title: what is shown.
        kind: of ``KINDS``.
        unit: of Grafana's units.
        place: in the grid.
        queries: what it asks; none of a row.
        steps: of its thresholds, upwards.
    """

    title: str
    kind: str
    unit: str
    place: Place
    queries: tuple[Query, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """What happened now and then: an expression that finds something while it does."""

    name: str
    color: str
    expr: str


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    title: str
    panels: tuple[Panel, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The times at which is asked, in seconds since 1970."""

    start: int
    end: int
    step: int

    @property
    def times(self) -> range:
        """All of them."""
        return range(self.start, self.end + 1, self.step)


@dataclass(frozen=True, slots=True)
class Line:
    """A series: one value for each time of the span, NaN where there is none."""

    name: str
    values: tuple[float, ...]


def names() -> list[str]:
    """Of the dashboards."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def read(name: str) -> Board:
    """A dashboard by its name."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    notes = content["annotations"]["list"]
    marks = tuple(Mark(each["name"], each["iconColor"], each["expr"]) for each in notes)
    return Board(content["title"], tuple(map(_panel, content["panels"])), marks)


def _panel(content: Mapping[str, Any]) -> Panel:
    kind = content["type"]
    if kind not in KINDS:
        raise ValueError(f"panel {content['title']!r} is a {kind}; drawn are {', '.join(KINDS)}")
    shown = content.get("fieldConfig", {}).get("defaults", {})
    steps = shown.get("thresholds", {}).get("steps", [])
    return Panel(
        content["title"],
        kind,
        shown.get("unit", "none"),
        Place(**content["gridPos"]),
        tuple(Query(each["expr"], each["legendFormat"]) for each in content.get("targets", [])),
        tuple(
            Step(-math.inf if each["value"] is None else each["value"], each["color"])
            for each in steps
        ),
    )


def span(now: float, seconds: float) -> Span:
    """The times of the last `seconds`, aligned to the step.

    Example:
        >>> span(1003.0, 60)
        Span(start=940, end=1000, step=5)
    """
    step = SCRAPE_S * max(1, math.ceil(seconds / POINTS / SCRAPE_S))
    return Span(int(now - seconds) // step * step, int(now) // step * step, step)


def legend(template: str, labels: Mapping[str, str]) -> str:
    """The name of a series; a label that it has not is nothing.

    Example:
        >>> legend("{{ job }} of {{pod}}", {"job": "worker"})
        'worker of'
    """
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), template).strip()


def on_times(samples: Sequence[tuple[float, str]], times: Sequence[int]) -> tuple[float, ...]:
    """The samples of a series by time; what is not there is NaN.

    Example:
        >>> on_times([(5.0, "1"), (15.0, "2.5")], range(5, 20, 5))
        (1.0, nan, 2.5)
    """
    found = {round(at): float(value) for at, value in samples}
    return tuple(found.get(at, math.nan) for at in times)


def regions(line: Line, times: Sequence[int]) -> list[tuple[int, int]]:
    """From when to when a line is over 0, without interruption.

    Example:
        >>> regions(Line("", (0.0, 2.0, 2.0, float("nan"), 1.0)), range(5))
        [(1, 2), (4, 4)]
    """
    found: list[tuple[int, int]] = []
    open_ = False
    for at, value in zip(times, line.values, strict=True):
        if value > 0:
            found[-1:] = [(found[-1][0], at)] if open_ else [*found[-1:], (at, at)]
        open_ = value > 0
    return found


class Prometheus:
    """Asks a Prometheus server what the panels of a dashboard ask.

    Args:
        client: whose base is the address of the server.
        when: the times.
    """

    def __init__(self, client: httpx.Client, when: Span) -> None:
        self._client, self._when = client, when
        self._window_s = rate_window_s(when.step, SCRAPE_S)

    def lines(self, query: Query) -> list[Line]:
        """The series of a query over the span."""
        when = {"start": self._when.start, "end": self._when.end, "step": self._when.step}
        return [
            Line(legend(query.legend, each["metric"]), on_times(each["values"], self._when.times))
            for each in self._ask("query_range", query.expr, when)
        ]

    def numbers(self, query: Query) -> list[float]:
        """What a query finds at the end of the span; NaN is nothing."""
        found = self._ask("query", query.expr, {"time": self._when.end})
        values = [float(each["value"][1]) for each in found]
        return [value for value in values if not math.isnan(value)]

    def _ask(self, path: str, expr: str, when: Mapping[str, int]) -> list[dict[str, Any]]:
        values: dict[str, str | int] = {"query": filled(expr, self._window_s), **when}
        said = self._client.get(f"/api/v1/{path}", params=values).json()
        if said["status"] != "success":
            raise ValueError(f"Prometheus does not answer {values['query']}: {said['error']}")
        found: list[dict[str, Any]] = said["data"]["result"]
        return found
