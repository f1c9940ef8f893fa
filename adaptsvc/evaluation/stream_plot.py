"""The picture on streams: accuracy while a stream comes in, one panel per stream, one line per cell.

It knows nothing of models or files but the one it writes. It needs matplotlib, of the extra `report`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptsvc.evaluation.stream_journal import StreamResult
from adaptsvc.evaluation.stream_kinds import Stream
from adaptsvc.evaluation.stream_summary import accuracies

COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]
GRAY = "#888888"
COLUMNS = 3
WIDTH, HEIGHT = 6.0, 4.2  # of a panel, in inches
MOST_PANELS = 60  # more and nothing can be read
DOTS = {"promoted": "o", "refused": "x", "failed": "x", "skipped": "|"}
Panel: TypeAlias = tuple[Stream, tuple[str, ...]]


def draw_streams(results: Sequence[StreamResult], path: Path, title: str) -> None:
    """Write the picture of at least one result."""
    panels: dict[Panel, list[StreamResult]] = {}
    for result in results:
        panels.setdefault((result.cell.stream, result.cell.domains), []).append(result)
    shown = list(panels.items())[:MOST_PANELS]
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.4), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (panel, members) in zip(every, shown, strict=False):
        _panel(axes, panel, members)
    for axes in every[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle(f"{title}\no promoted, x refused or failed, | skipped; dashed: zero-shot")
    figure.savefig(path, dpi=100)


def _panel(axes: Axes, panel: Panel, results: Sequence[StreamResult]) -> None:
    stream, domains = panel
    services = list(dict.fromkeys(_service(result) for result in results))
    for result in results:
        index = services.index(_service(result))
        _line(axes, result, COLOURS[index % len(COLOURS)])
    for seed in dict.fromkeys(result.cell.seed for result in results):
        first = next(result for result in results if result.cell.seed == seed)
        axes.axhline(accuracies(first)[0], color=GRAY, linestyle="--", linewidth=1, zorder=3)
    if len(domains) > 1:
        _parts(axes, domains, results[0].sent)
    where = f"{', '.join(sorted(set(domains)))}, mean" if len(domains) > 1 else domains[0]
    axes.set(title=f"{stream}: {where}", xlabel="images sent", ylabel="accuracy, held-out images")
    axes.margins(y=0.15)
    axes.legend(fontsize="small")


def _line(axes: Axes, result: StreamResult, colour: tuple[float, float, float]) -> None:
    """What served, from the start to the end of the stream; a mark at each round."""
    accuracy = accuracies(result)
    sent = [0, *(moment.sent for moment in result.moments)]
    end = max(result.sent[-1], sent[-1])
    label = f"{_service(result)}, seed {result.cell.seed}"
    style = "-" if result.cell.guard else ":"
    axes.plot(
        [*sent, end],
        [*accuracy, accuracy[-1]],
        drawstyle="steps-post",
        color=colour,
        linestyle=style,
        label=label,
    )
    for moment, share in zip(result.moments, accuracy[1:], strict=True):
        axes.plot(moment.sent, share, marker=DOTS.get(moment.outcome, "."), color=colour)


def _parts(axes: Axes, domains: Sequence[str], sent: Sequence[int]) -> None:
    """Where each domain begins."""
    for domain, start in zip(domains, [0, *sent[:-1]], strict=True):
        axes.axvline(start, color=GRAY, linewidth=0.5)
        axes.text(
            start,
            0.99,
            f" {domain}",
            va="top",
            fontsize="x-small",
            transform=axes.get_xaxis_transform(),
        )


def _service(result: StreamResult) -> str:
    cell = result.cell
    return f"{'guard' if cell.guard else 'no guard'}, pull {cell.pull:g}"
