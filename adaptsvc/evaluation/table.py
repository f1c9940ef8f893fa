"""The evaluation's tables: one per figure, methods by settings.

They know nothing of how the figures come about.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from adaptsvc.evaluation.split import Setting
from adaptsvc.evaluation.summary import AVERAGE, Row, Spread

# Figure, title, whether more is better.
SHOWN = (
    ("accuracy", "accuracy %", True),
    ("auroc", "AUROC %", True),
    ("h", "H %", True),
    ("ece", "ECE %", False),
)
LEGEND = (
    "accuracy: mean over the known classes. AUROC: unknown against known images by largest probability. "
    "H: harmonic mean of the two. ECE: calibration error on known classes, 15 bins."
)


def tables(rows: Sequence[Row]) -> list[Table]:
    """Accuracy, AUROC, their harmonic mean, calibration error; those that no row has are left out.

    Each has the domains below each other and their average last, the best of each column in bold.
    """
    return [
        _table(rows, figure, title, more_is_better=more)
        for figure, title, more in SHOWN
        if any(figure in row.figures for row in rows)
    ]


def _table(rows: Sequence[Row], figure: str, title: str, *, more_is_better: bool) -> Table:
    settings = list(dict.fromkeys(row.setting for row in rows))
    domains = list(dict.fromkeys(row.domain for row in rows))
    order = "more" if more_is_better else "less"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column(f"{title}, {order} is better", no_wrap=True)
    for setting in settings:
        table.add_column(setting, justify="right")
    for domain in domains:
        if domain == AVERAGE and len(domains) == 2:  # of one domain: it would say the same again
            continue
        table.add_row(f"[italic]{domain}[/italic]")
        here = [row for row in rows if row.domain == domain]
        best = {s: _best(here, s, figure, more_is_better=more_is_better) for s in settings}
        for method in dict.fromkeys(row.method for row in here):
            cells = [_cell(here, method, s, figure, best[s]) for s in settings]
            table.add_row(f"  {method}", *cells)
    return table


def _best(rows: Sequence[Row], setting: Setting, figure: str, *, more_is_better: bool) -> str:
    """The best mean of a column as it is printed, so that a tie is seen as one; empty with one row."""
    found = [r.figures[figure].mean for r in rows if r.setting == setting and figure in r.figures]
    if len(found) < 2:
        return ""
    return _percent(max(found) if more_is_better else min(found))


def _cell(rows: Sequence[Row], method: str, setting: Setting, figure: str, best: str) -> str:
    for row in rows:
        if (row.method, row.setting) == (method, setting) and figure in row.figures:
            spread = row.figures[figure]
            text = _spread(spread)
            return f"[bold]{text}[/bold]" if _percent(spread.mean) == best else text
    return "-"


def _spread(spread: Spread) -> str:
    deviation = "" if spread.std is None else f" ±{_percent(spread.std)}"
    return f"{_percent(spread.mean)}{deviation}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
