"""The command `eval`: its options, checked, and its exit code. It knows nothing of how it is done.

Torch is imported only once the options are found good, so that help and refusals come at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.evaluation.data import (
    choose_domains,
    choose_known,
    prompt_name,
    read_extra,
    read_tree,
)
from adaptsvc.evaluation.plan import Request, comma_list, parse_seeds, parse_share
from adaptsvc.evaluation.split import SETTINGS, setting
from adaptsvc.processes import stop_on_signals

FAILED = 1
CACHE = "cache"
EXAMPLE = "Example: adaptsvc eval photos --method zero-shot,ueo --setting open --seeds 3"


def evaluate(
    folder: Annotated[
        Path, typer.Argument(help="DIR/domain/class/*.jpg or DIR/class/*.jpg, labeled.")
    ],
    method: Annotated[
        str, typer.Option(help="Comma list; default: every one without labels.")
    ] = "",
    settings: Annotated[
        str, typer.Option("--setting", help=f"Comma list of {', '.join(SETTINGS)}; default: all.")
    ] = "",
    known: Annotated[
        str, typer.Option(help="Class names the model is given; default: the first 60 %.")
    ] = "",
    unknown: Annotated[
        Path | None, typer.Option(help="A folder of more images of no known class.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Comma list, or how many.")] = "0,1,2",
    domains: Annotated[str, typer.Option(help="Comma list; default: every domain.")] = "",
    labels: Annotated[
        str, typer.Option(help="Share of the labels that methods with labels are given.")
    ] = "100%",
    leave_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Learn from the other domains only.")
    ] = False,
    passes: Annotated[
        float | None, typer.Option(help="How often each image is learned from.")
    ] = None,
    model: Annotated[str, typer.Option(help="As ADAPTSVC_MODEL.")] = "",
    guard: Annotated[
        bool, typer.Option(help="A window or candidate the guard refuses counts as zero-shot.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where results go; a run there goes on.")] = Path(
        "reports/eval"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Measure methods on a labeled folder of images: accuracy, unknown classes, calibration."""
    tree = read_tree(folder)
    names = choose_known(tree, comma_list(known))
    extra = () if unknown is None else read_extra(unknown)
    chosen = tuple(setting(name) for name in comma_list(settings)) or SETTINGS
    where, draws = choose_domains(tree, comma_list(domains)), parse_seeds(seeds)
    configured = _settings(names, out, model, passes)
    from adaptsvc.evaluation.run import methods, run_evaluation  # loads torch

    request = Request(
        tree=tree,
        known=names,
        extra=extra,
        domains=where,
        methods=methods(comma_list(method)),
        settings=chosen,
        seeds=draws,
        guard=guard,
        out=out,
        labels=parse_share(labels),
        leave_out=leave_out,
    )
    console, stop = Console(stderr=as_json), stop_on_signals()
    summary = run_evaluation(request, configured, console=console, stop=stop)
    if as_json and summary:
        typer.echo(json.dumps(summary, indent=1))
    if not summary:
        raise typer.Exit(FAILED)


def _settings(known: tuple[str, ...], out: Path, model: str, passes: float | None) -> Settings:
    """The settings of this process, their class names the known ones, their home in `out`."""
    overrides: dict[str, Any] = {"model": model} if model else {}
    if passes is not None:
        overrides["learn"] = {"passes": passes}
    names = tuple(prompt_name(name) for name in known)
    return config.read(home=out / CACHE, classes=names, **overrides)
