"""Draws a dashboard: `python -m benchmarks.boards --prometheus URL --since 15m --board serving --png FILE`.

The panels are where the file of k8s/grafana puts them and ask a running Prometheus what they ask in Grafana:
colors, units, names and thresholds are theirs. It is a drawing of our own and says so; it needs the extra
`report`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from benchmarks import board_queries
from benchmarks.board_queries import SCRAPE_S, Board, Line, Panel, Place, Prometheus, Span, Step
from benchmarks.board_units import BOOLS, formatted, limits, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX, DPI, COLUMNS = 1600, 100, 24
HEAD_PX, CELL_PX, MARGIN_PX, GAP_PX = 76, 38, 12, 8
LEFT_PX, RIGHT_PX, TITLE_PX, TIMES_PX, NAMES_PX = 78, 14, 38, 26, 21  # inside a panel
NAME_ROWS, LETTER_PX, SWATCH_PX = 4, 7.9, 26
TITLE_PT, BOLD_PX = 11.5, 0.8  # a letter of the title is so many pixels wide per point of its size
GROUND, CARD, EDGE, INK, FAINT = "#f4f5f5", "white", "#d8d9da", "#24292e", "#6e757c"
COLORS = {"green": "#37872d", "orange": "#e0752d", "red": "#c4162a"}
LINES = (
    "#3274d9",
    "#e0752d",
    "#37872d",
    "#8f3bb8",
    "#c4162a",
    "#0f8a8a",
    "#b38600",
    "#705da0",
    "#d44a90",
    "#5a6a75",
)
CAPTION = (
    "Not a screenshot: drawn by benchmarks.boards from the dashboard's own queries; "
    "Grafana lays it out alike."
)
TIMEOUT_S = 60.0
UNIT_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the page in pixels from its left upper corner."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Name:
    """An entry of a legend: its row, and how far right it begins."""

    text: str
    color: str
    row: int
    left: float


@dataclass(frozen=True, slots=True)
class Region:
    """A time in which something happened."""

    start: int
    end: int
    color: str


def box(place: Place) -> Box:
    """Where a panel of the grid is on the page."""
    column = (WIDTH_PX - 2 * MARGIN_PX) / COLUMNS
    left, top = MARGIN_PX + place.x * column, HEAD_PX + place.y * CELL_PX
    half = GAP_PX / 2
    return Box(left + half, top + half, place.w * column - GAP_PX, place.h * CELL_PX - GAP_PX)


def height_px(panels: Sequence[Panel]) -> int:
    """Of the page."""
    return HEAD_PX + CELL_PX * max(each.place.y + each.place.h for each in panels) + MARGIN_PX


def named(texts: Sequence[str], width: float) -> list[Name]:
    """The entries of a legend in rows; those for which there is no room are counted in the last one."""
    found: list[Name] = []
    row, left = 0, 0.0
    for number, text in enumerate(texts):
        wide = SWATCH_PX + LETTER_PX * len(text) + 10
        if left and left + wide > width:
            row, left = row + 1, 0.0
        if row == NAME_ROWS:
            return [*found[:-1], Name(f"and {len(texts) - number + 1} more", FAINT, *_end(found))]
        found.append(Name(text, LINES[number % len(LINES)], row, left))
        left += wide
    return found


def _end(names: Sequence[Name]) -> tuple[int, float]:
    return names[-1].row, names[-1].left


def title_pt(text: str, width: float) -> float:
    """The size of letters with which a title fits."""
    return min(TITLE_PT, width / (BOLD_PX * len(text)))


def color_of(value: float, steps: Sequence[Step]) -> str:
    """The color of a number by its thresholds."""
    reached = [step.color for step in steps if step.value <= value]
    return COLORS[reached[-1]] if reached else INK


def seconds_of(text: str) -> int:
    """A duration: seconds, minutes or hours.

    Example:
        >>> seconds_of("15m")
        900
    """
    number, unit = text[:-1], text[-1:]
    if unit not in UNIT_S or not number.isdecimal() or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration like 90s, 15m or 6h")
    return int(number) * UNIT_S[unit]


class Page:
    """A picture that is drawn on in pixels from the left upper corner."""

    def __init__(self, height: int) -> None:
        from matplotlib.figure import Figure

        self._height = height
        self.figure: Figure = Figure((WIDTH_PX / DPI, height / DPI), dpi=DPI, facecolor=GROUND)

    def card(self, place: Box) -> None:
        """The ground of a panel."""
        from matplotlib.patches import Rectangle

        low = place.top + place.height
        ground = Rectangle(
            (place.left / WIDTH_PX, 1 - low / self._height),
            place.width / WIDTH_PX,
            place.height / self._height,
            facecolor=CARD,
            edgecolor=EDGE,
            transform=self.figure.transFigure,
            zorder=-1,
        )
        self.figure.add_artist(ground)

    def text(self, left: float, middle: float, words: str, **style: object) -> None:
        """Words, in the middle of a line."""
        looks: dict[str, object] = {"color": INK, "va": "center", "fontsize": 10.5, **style}
        self.figure.text(left / WIDTH_PX, 1 - middle / self._height, words, looks)

    def axes(self, place: Box) -> Axes:
        """For lines."""
        bottom = 1 - (place.top + place.height) / self._height
        size = (place.width / WIDTH_PX, place.height / self._height)
        return self.figure.add_axes((place.left / WIDTH_PX, bottom, *size))


def draw(board: Board, prometheus: Prometheus, when: Span, png: Path) -> None:
    """The whole dashboard."""
    page = Page(height_px(board.panels))
    _head(page, board, when)
    happened = list(_regions(board, prometheus, when))
    for panel in board.panels:
        if panel.kind == "row":
            place = box(panel.place)
            middle = place.top + place.height / 2
            page.text(place.left + 2, middle, panel.title, fontsize=13, weight="bold")
        elif panel.kind == "stat":
            _stat(page, panel, [n for query in panel.queries for n in prometheus.numbers(query)])
        else:
            lines = [line for query in panel.queries for line in prometheus.lines(query)]
            _series(page, panel, lines, when, happened)
    page.figure.savefig(png, facecolor=GROUND)


def _regions(board: Board, prometheus: Prometheus, when: Span) -> Iterator[Region]:
    for mark in board.marks:
        for line in prometheus.lines(board_queries.Query(mark.expr, "")):
            for start, end in board_queries.regions(line, when.times):
                yield Region(start, end, COLORS[mark.color])


def _head(page: Page, board: Board, when: Span) -> None:
    left, right = MARGIN_PX + 6, WIDTH_PX - MARGIN_PX - 6
    page.text(left, 28, board.title, fontsize=17, weight="bold")
    page.text(left, 57, CAPTION, color=FAINT)
    day, until = _clock(when.start, "%Y-%m-%d %H:%M:%S"), _clock(when.end, "%H:%M:%S")
    said = f"{day} to {until} UTC, scraped every {SCRAPE_S} s"
    page.text(right, 28, said, ha="right")
    for number, mark in enumerate(reversed(board.marks)):
        at = right - 120 * number
        page.text(at, 57, f"┆ {mark.name}", ha="right", color=COLORS[mark.color])


def _stat(page: Page, panel: Panel, numbers: Sequence[float]) -> None:
    place = _card(page, panel)
    middle = place.top + TITLE_PX + (place.height - TITLE_PX) / 2 - 6
    words = "   ".join(formatted(each, panel.unit) for each in numbers) or "no data"
    color = color_of(numbers[0], panel.steps) if numbers else FAINT
    size = 30 if numbers else 14
    page.text(place.left + place.width / 2, middle, words, ha="center", color=color, fontsize=size)


def _series(
    page: Page, panel: Panel, lines: Sequence[Line], when: Span, happened: Sequence[Region]
) -> None:
    place = _card(page, panel)
    values = [value for line in lines for value in line.values if math.isfinite(value)]
    names = named([line.name for line in lines], place.width - 28)
    rows = 1 + max((name.row for name in names), default=0)
    below = TIMES_PX + 10 + NAMES_PX * rows
    inside = Box(
        place.left + LEFT_PX,
        place.top + TITLE_PX + GAP_PX,
        place.width - LEFT_PX - RIGHT_PX,
        place.height - TITLE_PX - GAP_PX - below,
    )
    if not values:
        middle = place.top + place.height / 2
        page.text(place.left + place.width / 2, middle, "no data", ha="center", color=FAINT)
        return
    axes = page.axes(inside)
    _plot(axes, lines, when.times)
    _scale(axes, panel, values)
    _dress(axes, panel.steps, when, happened)
    for name in names:
        left = place.left + 14 + name.left
        middle = place.top + place.height - 8 - NAMES_PX * (rows - name.row - 0.5)
        if name.color != FAINT:
            page.text(left, middle, "━", color=name.color, weight="bold", fontsize=12)
        page.text(left + SWATCH_PX - 6, middle, name.text, fontsize=10)


def _card(page: Page, panel: Panel) -> Box:
    place = box(panel.place)
    page.card(place)
    size = title_pt(panel.title, place.width - 24)
    page.text(place.left + 12, place.top + TITLE_PX / 2, panel.title, fontsize=size, weight="bold")
    return place


def _plot(axes: Axes, lines: Sequence[Line], times: Sequence[int]) -> None:
    few = 4  # points that make no line yet
    for number, line in enumerate(lines):
        color = LINES[number % len(LINES)]
        marker = "o" if sum(map(math.isfinite, line.values)) < few else ""
        axes.plot(times, line.values, color=color, lw=1.6, marker=marker, ms=3.5)
        if len(lines) <= few:
            axes.fill_between(times, line.values, 0, color=color, alpha=0.07, lw=0)


def _scale(axes: Axes, panel: Panel, values: Sequence[float]) -> None:
    if panel.unit in BOOLS:
        axes.set_ylim(-0.1, 1.1)
        axes.set_yticks([0, 1])
    else:
        axes.set_ylim(*limits(values))
        axes.locator_params(axis="y", nbins=5)
    axes.yaxis.set_major_formatter(lambda value, _: formatted(value, panel.unit))


def _dress(axes: Axes, steps: Sequence[Step], when: Span, happened: Sequence[Region]) -> None:
    """The time below, thresholds across, and what happened upright."""
    low, high = axes.get_ylim()
    for step in steps:
        if low <= step.value <= high:
            axes.axhline(step.value, color=COLORS[step.color], ls="--", lw=1.3)
    for each in happened:
        axes.axvspan(each.start, each.end, color=each.color, alpha=0.05, lw=0)
        axes.axvline(each.start, color=each.color, ls=":", lw=1.2)
    axes.set_xlim(when.start, when.end)
    at = ticks(when.start, when.end, 6)
    pattern = "%H:%M" if all(each % 60 == 0 for each in at) else "%H:%M:%S"
    axes.set_xticks(at, [_clock(each, pattern) for each in at])
    axes.tick_params(labelsize=10, colors=FAINT, length=0)
    axes.grid(color="#e7e8e9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _clock(at: int, pattern: str) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(pattern)


def draw_all(url: str, seconds: float, pictures: Mapping[str, Path]) -> None:
    """Each of the named dashboards into its file, all of the same time."""
    when = board_queries.span(time.time(), seconds)
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        prometheus = Prometheus(client, when)
        for name, png in pictures.items():
            draw(board_queries.read(name), prometheus, when, png)


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boards", description=__doc__)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="its address")
    parser.add_argument("--since", type=seconds_of, default="15m", help="how far back: 90s, 15m")
    parser.add_argument("--board", choices=board_queries.names(), default="serving")
    parser.add_argument("--png", type=Path, required=True, help="draw it there")
    args = parser.parse_args(arguments)
    draw_all(args.prometheus, args.since, {args.board: args.png})


if __name__ == "__main__":
    main()
