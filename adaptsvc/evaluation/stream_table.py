"""The tables on streams: what became of the service, why rounds brought nothing, and forgetting.

They know nothing of how the figures come about, and fit 100 columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from adaptsvc.evaluation.stream_summary import StreamRow
from adaptsvc.evaluation.summary import Spread

ARROW = " → "
LEGEND = (
    "accuracy: mean over the known classes, on held-out images. worst: of anything that ever served. "
    "margin: final accuracy over zero-shot less 1 point, in points, of the worst seed; with the guard on "
    "it must not be below 0. rounds: promoted/refused/skipped/failed. ECE, AUROC: zero-shot→final."
)
FORGETTING = (
    "forgetting: mean over the earlier domains of the accuracy right after learning one, less that at the "
    "end; a domain learned again counts from its last time."
)


def stream_tables(rows: Sequence[StreamRow]) -> list[Table]:
    """The tables that say something of these rows."""
    several = [row for row in rows if row.stream == "domains"]
    found = [_outcomes(rows)]
    if any(row.reasons or row.returns for row in rows):
        found.append(_reasons(rows))
    return found + ([_forgetting(several), _matrix(several)] if several else [])


def verdict(rows: Sequence[StreamRow]) -> str:
    """Whether what must hold does."""
    guarded = [row for row in rows if row.guard]
    if not guarded:
        return "nothing was measured with the guard on"
    broken = [row for row in guarded if not row.holds]
    text = (
        f"with the guard on, {len(guarded) - len(broken)} of {len(guarded)} rows end no more than a point "
        "under zero-shot"
    )
    if broken:
        worst = min(broken, key=lambda row: row.margin)
        text += f"; the worst, {name_of(worst)}, misses by {-100 * worst.margin:.1f} points"
    return text


def name_of(row: StreamRow) -> str:
    """A row in words."""
    where = f"{row.stream}, {row.domains[0]}" if len(row.domains) == 1 else row.stream
    return f"{where}, {service(row, always=len(row.domains) > 1)}"


def service(row: StreamRow, *, always: bool) -> str:
    """Guard and pull; a pull of 0 goes without saying unless asked for `always`."""
    guard = "guard" if row.guard else "no guard"
    return f"{guard}, pull {row.pull:g}" if always or row.pull else guard


def _outcomes(rows: Sequence[StreamRow]) -> Table:
    table = _table("%")
    for title in ("zero-shot", "final", "worst", "margin", "rounds", "ECE", "AUROC"):
        table.add_column(title, justify="right", no_wrap=True)
    group = None
    for row in rows:
        if group != (row.stream, row.domains):
            group = (row.stream, row.domains)
            path = f"{len(row.domains)} parts" if len(row.domains) > 1 else row.domains[0]
            table.add_row(f"[italic]{row.stream}, {path}[/italic]")
        table.add_row(f"  {service(row, always=len(row.domains) > 1)}", *_cells(row))
    return table


def _cells(row: StreamRow) -> tuple[str, ...]:
    margin = f"{100 * row.margin:+.1f}"
    if row.guard and not row.holds:
        margin = f"[bold red]{margin}[/bold red]"
    counts = [
        row.rounds.get(outcome, 0) for outcome in ("promoted", "refused", "skipped", "failed")
    ]
    return (
        _percent(row.zero_shot),
        _percent(row.final),
        f"{100 * row.worst:.1f}",
        margin,
        "/".join(map(str, counts)),
        f"{_mean(row.zero_shot_ece)}→{_mean(row.ece)}",
        "-"
        if row.auroc is None or row.zero_shot_auroc is None
        else f"{_mean(row.zero_shot_auroc)}→{_mean(row.auroc)}",
    )


def _reasons(rows: Sequence[StreamRow]) -> Table:
    table = _table("why nothing new serves")
    table.add_column("times", justify="right")
    for row in rows:
        for reason, times in row.reasons.items():
            table.add_row(f"{name_of(row)}: {reason}", str(times))
        if row.returns:
            table.add_row(f"{name_of(row)}: returns to an earlier version", str(row.returns))
    return table


def _forgetting(rows: Sequence[StreamRow]) -> Table:
    table = _table(ARROW.join(rows[0].domains))
    table.add_column("final %, mean of domains", justify="right")
    table.add_column("forgetting, points", justify="right")
    table.add_row("zero-shot", _percent(rows[0].zero_shot), "0.0")
    for row in rows:
        lost = "-" if row.forgetting is None else _percent(row.forgetting)
        table.add_row(service(row, always=True), _percent(row.final), lost)
    return table


def _matrix(rows: Sequence[StreamRow]) -> Table:
    """Accuracy after each part (below each other) on each domain (beside each other)."""
    domains = list(rows[0].zero_shot_by_domain)
    table = _table("accuracy %")
    for domain in domains:
        table.add_column(domain, justify="right")
    start = rows[0].zero_shot_by_domain
    table.add_row("zero-shot", *(f"{100 * start[domain]:.1f}" for domain in domains))
    for row in rows:
        table.add_row(f"[italic]{service(row, always=True)}[/italic]")
        for part, after in zip(row.domains, row.after_parts, strict=True):
            cells = [f"{100 * after[domain]:.1f}" for domain in domains]
            at = domains.index(part)
            cells[at] = f"[bold]{cells[at]}[/bold]"
            table.add_row(f"  after {part}", *cells)
    return table


def _table(title: str) -> Table:
    """Tight enough for 100 columns, and for 80 with one seed; names of domains may wrap."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title)
    return table


def _percent(spread: Spread) -> str:
    deviation = "" if spread.std is None else f" ±{100 * spread.std:.1f}"
    return f"{_mean(spread)}{deviation}"


def _mean(spread: Spread) -> str:
    return f"{100 * spread.mean:.1f}"
