"""The run on streams: cell after cell into the journal, then tables, summary and picture.

It knows nothing of options or exit codes, nor of what a cell does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from adaptsvc.config import Settings
from adaptsvc.evaluation.bench import Bench
from adaptsvc.evaluation.stream_cells import Held, Trial, run_stream_cell
from adaptsvc.evaluation.stream_journal import StreamJournal, StreamResult
from adaptsvc.evaluation.stream_kinds import sendings
from adaptsvc.evaluation.stream_plan import StreamCell, StreamRequest, plan
from adaptsvc.evaluation.stream_summary import StreamRow, summarise_streams
from adaptsvc.evaluation.stream_table import FORGETTING, LEGEND, stream_tables, verdict
from adaptsvc.evaluation.sweep import Say, Sweep

RESULTS, SUMMARY, REPORT = "stream_results.jsonl", "stream_summary.json", "stream_report.png"
Where: TypeAlias = tuple[str, int]  # domain, seed


@dataclass(slots=True)
class Run:
    """What one run works with.

    Attributes:
        held: decoded held-out images of the domains in use.
    """

    request: StreamRequest
    bench: Bench
    sweep: Sweep[StreamCell, StreamResult]
    held: dict[Where, Held] = field(default_factory=dict)


def run_streams(
    request: StreamRequest, settings: Settings, *, console: Console, stop: threading.Event
) -> dict[str, Any]:
    """Measure every cell that the journal has not yet, and report on all of them.

    Args:
        request: what to measure.
        settings: the model is exported to `settings.home`, its class names are the known ones.
        console: where progress, warnings and tables go.
        stop: set to end early; what was measured stays in the journal.

    Returns:
        What stream_summary.json holds; nothing when it ended early.

    Raises:
        AdaptsvcError: the model cannot be loaded, or a domain cannot be tested on.
    """
    sweep = Sweep(StreamJournal(request.out / RESULTS), console, stop)
    bench = sweep.load(settings)
    run = Run(request, bench, sweep)
    cells = plan(request, settings, bench.model)
    results = sweep.results(cells, lambda cell, say: _measure(run, cell, say))
    return _report(request, results, console) if results else {}


def _measure(run: Run, cell: StreamCell, say: Say) -> StreamResult:
    say(f"{_words(cell)}: reading the images")
    halves = {d: run.request.halves(d, cell.seed) for d in dict.fromkeys(cell.domains)}
    materials = [halves[domain][0] for domain in cell.domains]
    parts = sendings(cell.stream, materials, run.request.draw(cell.seed))
    images = sum(map(len, parts))

    def look(sent: int) -> None:
        run.sweep.check()
        say(f"{_words(cell)}: {sent} of {images} images")

    return run_stream_cell(Trial(run.bench, parts, _held(run, cell), run.sweep.stop, look), cell)


def _held(run: Run, cell: StreamCell) -> tuple[Held, ...]:
    """The held-out images of a cell; those that it does not test on are let go."""
    wanted = [(domain, cell.seed) for domain in dict.fromkeys(cell.domains)]
    for other in set(run.held) - set(wanted):
        del run.held[other]
    for where in wanted:
        if where not in run.held:
            run.held[where] = _read(run, *where)
    return tuple(run.held[where] for where in wanted)


def _read(run: Run, domain: str, seed: int) -> Held:
    _, tested = run.request.halves(domain, seed)
    return Held.of(domain, run.sweep.read(run.bench, tested), run.request.known)


def _words(cell: StreamCell) -> str:
    where = cell.domains[0] if len(cell.domains) == 1 else f"pull {cell.pull:g}"
    return f"{cell.stream}, {where}, {'guard' if cell.guard else 'no guard'}, seed {cell.seed}"


def _report(
    request: StreamRequest, results: Sequence[StreamResult], console: Console
) -> dict[str, Any]:
    rows = summarise_streams(results)
    for table in stream_tables(rows):
        console.print(table, "")
    summary = _summary(request, results, rows)
    (request.out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    console.print(LEGEND, highlight=False)
    if "domains" in request.streams:
        console.print(FORGETTING, highlight=False)
    console.print(verdict(rows), highlight=False)
    console.print(_picture(request, results), markup=False, highlight=False)
    return summary


def _summary(
    request: StreamRequest, results: Sequence[StreamResult], rows: Sequence[StreamRow]
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "data": str(request.tree.root),
        "known": list(request.known),
        "seeds": list(request.seeds),
        "repeat": request.repeat,
        "cells": len(results),
        "rows_with_guard": sum(row.guard for row in rows),
        "rows_with_guard_that_hold": sum(row.guard and row.holds for row in rows),
        "skipped_images": {r.cell.domains[0]: r.skipped_images for r in results},
        "results": [{**asdict(row), "holds": row.holds} for row in rows],
    }
    # As it reads back from the file, so that a resumed run returns the same.
    plain: dict[str, Any] = json.loads(json.dumps(summary))
    return plain


def _picture(request: StreamRequest, results: Sequence[StreamResult]) -> str:
    """Draw the report if matplotlib is here; what to say of it."""
    if find_spec("matplotlib") is None:
        return f"summary: {request.out / SUMMARY}; for the picture install 'adaptsvc[report]'"
    from adaptsvc.evaluation.stream_plot import draw_streams  # needs the extra `report`

    path: Path = request.out / REPORT
    seeds = ", ".join(map(str, request.seeds))
    draw_streams(
        results, path, f"{request.tree.root.name}, {len(request.known)} classes; seeds {seeds}"
    )
    return f"report: {path}"
