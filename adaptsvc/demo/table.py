"""The demo's tables: the live one and the summary. It knows nothing of how the figures come about."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

from adaptsvc.demo.measure import Scores
from adaptsvc.demo.report import Journal


def live_table(journal: Journal, serving: int, sent: int, total: int) -> Table:
    """The serving version beside the frozen zero-shot model."""
    table = Table(title=f"{sent} of {total} images streamed, version {serving} serves")
    for column in ("", "version", "images read", "accuracy", "ECE", "OOD AUROC"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("zero-shot", *_row(journal.scores[0], 0))
    latest = journal.scores[-1]
    table.add_row("serving", *_row(latest, journal.learned.get(latest.version, 0)))
    swap = "none yet" if math.isnan(journal.swap_ms) else f"{journal.swap_ms:.0f} ms"
    table.caption = (
        f"swap {swap} on average; {journal.requests} requests, {len(journal.failures)} failed"
    )
    return table


def summary_table(summary: dict[str, Any], report: str) -> Table:
    """What the run came to."""
    table = Table("", "zero-shot", "final version", "change", title="Held-out images, over HTTP")
    table.add_row(
        "accuracy",
        f"{summary['accuracy_zero_shot']:.3f}",
        f"{summary['accuracy']:.3f}",
        f"{summary['accuracy_gain_points']:+.1f} points",
    )
    table.add_row(
        "OOD AUROC",
        f"{summary['ood_auroc_zero_shot']:.3f}",
        f"{summary['ood_auroc']:.3f}",
        f"{summary['ood_auroc_gain_points']:+.1f} points",
    )
    change = summary["ece"] - summary["ece_zero_shot"]
    table.add_row(
        "ECE", f"{summary['ece_zero_shot']:.3f}", f"{summary['ece']:.3f}", f"{change:+.3f}"
    )
    table.add_row("versions promoted", "", str(summary["versions_promoted"]), "")
    table.add_row("images learned from", "", str(summary["images_learned_from"]), "")
    table.add_row(
        "requests, failed", "", f"{summary['requests']}, {summary['failed_requests']}", ""
    )
    table.add_row("mean swap", "", f"{summary['swap_ms']:.0f} ms", "")
    table.caption = f"report: {report}"
    return table


def _row(scores: Scores, learned: int) -> tuple[str, ...]:
    return (
        str(scores.version),
        str(learned),
        f"{scores.accuracy:.3f}",
        f"{scores.ece:.3f}",
        f"{scores.ood_auroc:.3f}",
    )
