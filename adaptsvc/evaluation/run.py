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

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.bench import Bench, Pictures
from adaptsvc.evaluation.cells import Lesson, run_cell, stage
from adaptsvc.evaluation.journal import Cell, Journal, Result
from adaptsvc.evaluation.methods import METHODS, UNLABELED
from adaptsvc.evaluation.plan import Request, plan
from adaptsvc.evaluation.scores import auroc_by_score, best_score, scores_table
from adaptsvc.evaluation.summary import AVERAGE, summarise
from adaptsvc.evaluation.sweep import Say, Sweep
from adaptsvc.evaluation.table import LEGEND, tables

RESULTS, SUMMARY, REPORT = "results.jsonl", "summary.json", "report.png"


@dataclass(slots=True)
class Run:
    """What one run works with.

    Attributes:
        extra: the pictures of --unknown, decoded once.
        domains: the pictures of the domain at hand, or of every domain where all are needed.
    """

    request: Request
    bench: Bench
    sweep: Sweep[Cell, Result]
    extra: list[Pictures] = field(default_factory=list)
    domains: dict[str, Pictures] = field(default_factory=dict)


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
    results, logit_scale = measured(request, settings, console=console, stop=stop)
    return _report(request, results, logit_scale, console) if results else {}


def measured(
    request: Request, settings: Settings, *, console: Console, stop: threading.Event
) -> tuple[list[Result], float]:
    """As `run_evaluation`, without the report.

    Returns:
        The result of every cell, none when it ended early; the model's logit scale.
    """
    sweep = Sweep(Journal(request.out / RESULTS), console, stop)
    bench = sweep.load(settings)
    run = Run(request, bench, sweep)
    cells = plan(request, settings, bench.model)
    results = sweep.results(cells, lambda cell, say: _measure(run, cell, say))
    return results, bench.start.manifest.logit_scale


def _measure(run: Run, cell: Cell, say: Say) -> Result:
    what = f"{cell.domain}, {cell.setting}, {cell.method}, seed {cell.seed}"
    say(f"{what}: reading the images")
    pictures = sum(_extra(run), start=_pictures(run, cell.domain))
    lesson = Lesson(run.request.known, run.request.labels, _others(run, cell.domain))
    say(what)
    scene = stage(pictures, lesson, cell)
    check = run.sweep.check
    return run_cell(run.bench, scene, cell, guard=run.request.guard, between_steps=check)


def _pictures(run: Run, domain: str) -> Pictures:
    """A domain's images, decoded once; those of the one before are let go unless all are needed."""
    if domain not in run.domains:
        if not run.request.leave_out:
            run.domains.clear()
        run.domains[domain] = run.sweep.read(run.bench, run.request.tree.domains[domain])
    return run.domains[domain]


def _extra(run: Run) -> list[Pictures]:
    if run.request.extra and not run.extra:
        run.extra.append(run.sweep.read(run.bench, run.request.extra))
    return run.extra


def _others(run: Run, domain: str) -> Pictures | None:
    """The images of every other domain, where a domain's own are left out."""
    if not run.request.leave_out:
        return None
    first, *rest = (_pictures(run, name) for name in run.request.tree.domains if name != domain)
    return sum(rest, start=first)


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
