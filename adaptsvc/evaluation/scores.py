"""Which out-of-distribution score tells a model's unknown images best, by measurement.

It knows nothing of how the logits came about. The answer is what `ood.score` should be for that model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from rich import box
from rich.table import Table

from adaptsvc.evaluation.journal import Result
from adaptsvc.evaluation.measure import UNKNOWN
from adaptsvc.trust import ood

Aurocs: TypeAlias = dict[str, dict[str, float]]  # by method, then by score


def auroc_by_score(results: Sequence[Result], logit_scale: float) -> Aurocs:
    """Mean AUROC of each score over a method's cells; cells without unknown images are left out.

    Args:
        results: of any methods, domains and settings.
        logit_scale: of the model they were measured with.
    """
    cells: dict[str, list[list[float]]] = {}
    for result in results:
        logits = np.array(result.answers.logits)  # (N, C)
        known = np.array(result.answers.label) != UNKNOWN
        if known.all() or not known.any():
            continue
        found = [score(logits, logit_scale) for score in ood.SCORES.values()]
        aurocs = [ood.auroc(score[known], score[~known]) for score in found]
        cells.setdefault(result.cell.method, []).append(aurocs)
    return {
        method: dict(zip(ood.SCORES, np.mean(rows, axis=0).tolist(), strict=True))
        for method, rows in cells.items()
    }


def best_score(aurocs: Mapping[str, Mapping[str, float]]) -> str:
    """The score of the highest mean over the methods; of equals the one that stands first.

    Raises:
        ValueError: there is no method.

    Example:
        >>> best_score({"ueo": {"msp": 0.7, "energy": 0.9}, "core": {"msp": 0.8, "energy": 0.8}})
        'energy'
    """
    if not aurocs:
        raise ValueError("got no method; expected at least 1, with unknown images")
    names = list(next(iter(aurocs.values())))
    return max(names, key=lambda name: sum(scores[name] for scores in aurocs.values()))


def scores_table(aurocs: Mapping[str, Mapping[str, float]]) -> Table:
    """Methods by scores, the best score of each method in bold."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("AUROC % by ood.score", no_wrap=True)
    for name in ood.SCORES:
        table.add_column(name, justify="right")
    for method, scores in aurocs.items():
        shown = {name: f"{100 * value:.1f}" for name, value in scores.items()}
        best = shown[max(scores, key=scores.__getitem__)]
        cells = [f"[bold]{text}[/bold]" if text == best else text for text in shown.values()]
        table.add_row(f"  {method}", *cells)
    return table
