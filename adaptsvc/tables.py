"""Tables for people, as the commands print them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table


def folded(*columns: str, title: str = "") -> Table:
    """A table that breaks what is too wide: paths, times and names are to be read whole."""
    return Table(*(Column(each, overflow="fold") for each in columns), title=title or None)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print it; brackets are no mark-up, a file or class may be called [/]."""
    table = folded(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table)
