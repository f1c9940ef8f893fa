"""The command `versions reproduce`: its table and its exit code. It knows nothing of how that is done.

Torch is imported only once the command runs, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from adaptsvc import config
from adaptsvc.state import open_state
from adaptsvc.streaming import open_log
from adaptsvc.tables import folded

if TYPE_CHECKING:
    from adaptsvc.reproduction import Reproduction

FAILED = 1
REPRODUCE_EXAMPLE = "Example: adaptsvc versions reproduce 3"

Version = Annotated[int, typer.Argument(min=0, help="Whose round is run again.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


def reproduce(version: Version, as_json: AsJson = False) -> None:
    """Run the round of a version again from the stream, and compare; nothing is published."""
    settings = config.read()
    store = open_state(settings).store
    store.manifest(version)  # a version that is not there is said before torch is loaded
    with Console(stderr=True).status("running the round again"):
        from adaptsvc.reproduction import reproduce as run_again  # loads torch

        with closing(open_log(settings)) as log:
            found = run_again(settings, store, log, version)
    if as_json:
        figures = {"verdict": found.verdict, "difference": found.difference}
        typer.echo(json.dumps(_finite({**figures, **dataclasses.asdict(found)}), indent=1))
    else:
        _print(found)
    if found.verdict == "differs":
        raise typer.Exit(FAILED)


def _finite(value: Any) -> Any:
    """The same with null for what is infinite, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(found: Reproduction) -> None:
    title = f"version {found.version}: {found.method} on {found.images} images from version {found.parent}"
    table = folded("tensors", "count", "values", "largest difference", "", title=title)
    for group in found.groups:
        same = "identical" if group.identical else ""
        table.add_row(
            group.name, str(group.tensors), str(group.values), f"{group.difference:.2g}", same
        )
    console = Console()
    console.print(table)
    for line in found.changed:
        console.print(line, highlight=False)
    console.print(
        {
            "identical": "the same in every bit",
            "equal": f"the same within 1e-5 (largest difference {found.difference:.2g})",
            "differs": f"differs by {found.difference:.2g}; at most 1e-5 is allowed",
        }[found.verdict],
        highlight=False,
    )
