"""The run: cell after cell into the journal, then tables, summary and picture.

It knows nothing of options or exit codes, nor of what a cell does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.bench import Bench, Pictures, read_pictures
from adaptsvc.evaluation.cells import Lesson, run_cell, stage
from adaptsvc.evaluation.data import Entry
from adaptsvc.evaluation.journal import Cell, Journal, Result
from adaptsvc.evaluation.methods import METHODS, UNLABELED
from adaptsvc.evaluation.plan import Request, plan
from adaptsvc.evaluation.scores import auroc_by_score, best_score, scores_table
from adaptsvc.evaluation.summary import AVERAGE, summarise
from adaptsvc.evaluation.table import LEGEND, tables

RESULTS, SUMMARY, REPORT = "results.jsonl", "summary.json", "report.png"


class Interrupted(Exception):  # noqa: N818 - a signal, not an error
    """Ctrl-C."""


@dataclass(slots=True)
class Run:
    """What one run works with.

    Attributes:
        extra: the pictures of --unknown, decoded once.
        domains: the pictures of each domain, where they are needed more than once.
    """

    request: Request
    bench: Bench
    journal: Journal
    console: Console
    stop: threading.Event
    extra: list[Pictures] = field(default_factory=list)
    domains: dict[str, Pictures] = field(default_factory=dict)

    def check(self) -> None:
        """End the run here if it was interrupted."""
        if self.stop.is_set():
            raise Interrupted


def methods(names: Sequence[str]) -> tuple[str, ...]:
    """The methods of these names; without a wish all that need no labels.

    Raises:
        ConfigError: there is none of that name.
    """
    missing = [name for name in names if name not in METHODS]
    if missing:
        raise ConfigError(
            f"--method names {', '.join(missing)}, which is no method; choose from {', '.join(METHODS)}"
        )
    return tuple(names) or tuple(UNLABELED)


def run_evaluation(
    request: Request, settings: Settings, *, console: Console, stop: threading.Event
) -> dict[str, Any]:
    """Measure every cell that the journal has not yet, and report on all of them.

    Args:
        request: what to measure.
        settings: the model is exported to `settings.home`, its class names are the known ones.
        console: where progress, warnings and tables go.
        stop: set to end early; what was measured stays in the journal.

    Returns:
        What summary.json holds; nothing when it ended early.

    Raises:
        AdaptsvcError: the model cannot be loaded, or the images give no halves.
    """
    journal = Journal(request.out / RESULTS)
    with console.status("loading the model (the first time it is exported, about 20 s)"):
        bench = Bench.load(settings)
    cells = plan(request, settings, bench.model)
    try:
        _measure(Run(request, bench, journal, console, stop), cells)
    except Interrupted:
        done = sum(cell in journal.results for cell in cells)
        console.print(
            f"interrupted: {done} of {len(cells)} cells are in {journal.path}; the same command goes on "
            "from there"
        )
        return {}
    results = [journal.results[cell] for cell in cells]
    return _report(request, results, bench.start.manifest.logit_scale, console)


def _measure(run: Run, cells: Sequence[Cell]) -> None:
    waiting = [cell for cell in cells if cell not in run.journal.results]
    if done := len(cells) - len(waiting):
        run.console.print(f"{done} of {len(cells)} cells were measured before")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=run.console, transient=True) as progress:
        task = progress.add_task("", total=len(cells), completed=done)
        for domain in dict.fromkeys(cell.domain for cell in waiting):
            progress.update(task, description=f"{domain}: reading the images")
            pictures = _pictures(run, domain)
            here = [cell for cell in waiting if cell.domain == domain]
            _measure_domain(run, pictures, here, progress=progress, task=task)


def _pictures(run: Run, domain: str) -> Pictures:
    """A domain's images and the extra ones; those of the domain before are let go."""
    pictures = _read(run, run.request.tree.domains[domain])
    if run.request.extra and not run.extra:
        run.extra.append(_read(run, run.request.extra))
    return sum(run.extra, start=pictures)


def _others(run: Run, domain: str) -> Pictures | None:
    """The images of every other domain, where a domain's own are left out."""
    if not run.request.leave_out:
        return None
    for name, entries in run.request.tree.domains.items():
        if name not in run.domains:
            run.domains[name] = _read(run, entries)
    first, *rest = (pictures for name, pictures in run.domains.items() if name != domain)
    return sum(rest, start=first)


def _read(run: Run, entries: Sequence[Entry]) -> Pictures:
    pictures = read_pictures(run.bench, entries, between_images=run.check)
    for line in pictures.skipped:
        run.console.print(f"warning: left out {line}", markup=False, highlight=False)
    return pictures


def _measure_domain(
    run: Run, pictures: Pictures, cells: Sequence[Cell], *, progress: Progress, task: TaskID
) -> None:
    lesson = Lesson(run.request.known, run.request.labels, _others(run, cells[0].domain))
    for cell in cells:
        run.check()
        what = f"{cell.domain}, {cell.setting}, {cell.method}, seed {cell.seed}"
        progress.update(task, description=what)
        scene = stage(pictures, lesson, cell)
        guard, check = run.request.guard, run.check
        run.journal.append(run_cell(run.bench, scene, cell, guard=guard, between_steps=check))
        progress.advance(task)


def _report(
    request: Request, results: Sequence[Result], logit_scale: float, console: Console
) -> dict[str, Any]:
    rows = summarise(results)
    aurocs = auroc_by_score(results, logit_scale)
    for table in tables(rows) + ([scores_table(aurocs)] if aurocs else []):
        console.print(table, "")
    skipped = {result.cell.domain: result.skipped_images for result in results}
    summary: dict[str, Any] = {
        "data": str(request.tree.root),
        "known": list(request.known),
        "seeds": list(request.seeds),
        "guard": request.guard,
        "labels": request.labels,
        "leave_out": request.leave_out,
        "cells": len(results),
        "cells_the_guard_would_refuse": sum(bool(result.reasons) for result in results),
        "cells_counted_as_zero_shot": sum(result.refused for result in results),
        "skipped_images": skipped,
        "auroc_by_score": aurocs,
        "results": [asdict(row) for row in rows if row.domain != AVERAGE],
        "average": [asdict(row) for row in rows if row.domain == AVERAGE],
    }
    (request.out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    console.print(LEGEND, _words(summary, len(request.seeds)), sep="\n", highlight=False)
    if aurocs:
        best = best_score(aurocs)
        console.print(
            f"unknown images are told best by ADAPTSVC_OOD__SCORE={best}", highlight=False
        )
    console.print(_picture(request, results), markup=False, highlight=False)
    return summary


def _words(summary: dict[str, Any], seeds: int) -> str:
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    skipped = sum(summary["skipped_images"].values())
    return (
        f"{spread}; of {summary['cells']} cells the guard would refuse "
        f"{summary['cells_the_guard_would_refuse']}, {summary['cells_counted_as_zero_shot']} count as "
        f"zero-shot; {skipped} images cannot be read"
    )


def _picture(request: Request, results: Sequence[Result]) -> str:
    """Draw the report if matplotlib is here; what to say of it."""
    if find_spec("matplotlib") is None:
        return f"summary: {request.out / SUMMARY}; for the picture install 'adaptsvc[report]'"
    from adaptsvc.evaluation.plot import draw  # needs the extra `report`

    path: Path = request.out / REPORT
    seeds = ", ".join(map(str, request.seeds))
    title = f"{', '.join(request.domains)}; {', '.join(request.settings)}; seeds {seeds}"
    draw(results, request.known, path, title)
    return f"report: {path}"
