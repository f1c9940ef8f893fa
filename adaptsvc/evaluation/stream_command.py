"""The command `eval-stream`: its options, checked, and its exit code. It knows nothing of how it is done.

Torch is imported only once the options are found good, so that help and refusals come at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.evaluation.data import choose_known, prompt_name, read_extra, read_tree
from adaptsvc.evaluation.plan import comma_list, parse_seeds
from adaptsvc.evaluation.stream_kinds import STREAMS
from adaptsvc.evaluation.stream_plan import (
    StreamRequest,
    choose_path,
    choose_streams,
    parse_guard,
    parse_pulls,
)
from adaptsvc.processes import stop_on_signals

FAILED = 1
CACHE = "cache"
WINDOW_ROUNDS = 2  # a window holds the images of so many rounds, as in the default settings
STREAM_EXAMPLE = "Example: adaptsvc eval-stream photos --stream one-class,noise --guard on,off"


Folder = Annotated[Path, typer.Argument(help="DIR/domain/class/*.jpg or DIR/class/*.jpg, labeled.")]
Streams = Annotated[str, typer.Option(help=f"Comma list of {', '.join(STREAMS)}; default: all.")]
Guard = Annotated[str, typer.Option(help="on, off, or both; off refuses only what is not finite.")]
Pull = Annotated[
    str, typer.Option(help="For the stream domains: shares that a round goes back to zero-shot.")
]
Domains = Annotated[
    str,
    typer.Option(
        help="Comma list; each is a cell of its own, and their order is that of the stream domains, where "
        "one may come again; default: every domain, then the first once more."
    ),
]
Known = Annotated[
    str, typer.Option(help="Class names the model is given; default: the first 60 %.")
]
Unknown = Annotated[Path | None, typer.Option(help="A folder of more images of no known class.")]
Seeds = Annotated[str, typer.Option(help="Comma list, or how many.")]
RoundsImages = Annotated[
    int, typer.Option(help="New images, or labels, that start a round; a window holds twice.")
]
Repeat = Annotated[
    int, typer.Option(min=1, help="How often an image is sent, each time as a new one.")
]
Model = Annotated[str, typer.Option(help="As ADAPTSVC_MODEL.")]
Out = Annotated[Path, typer.Option(help="Where results go; a run there goes on.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


def evaluate_stream(
    folder: Folder,
    stream: Streams = "",
    guard: Guard = "on,off",
    pull: Pull = "0,0.1,0.5",
    domains: Domains = "",
    known: Known = "",
    unknown: Unknown = None,
    seeds: Seeds = "0",
    rounds_images: RoundsImages = 64,
    repeat: Repeat = 2,
    model: Model = "",
    out: Out = Path("reports/eval-stream"),
    as_json: AsJson = False,
) -> None:
    """Measure what streams, hostile ones too, do to a service that learns from them."""
    tree = read_tree(folder)
    names = choose_known(tree, comma_list(known))
    request = StreamRequest(
        tree=tree,
        known=names,
        extra=() if unknown is None else read_extra(unknown),
        streams=choose_streams(comma_list(stream)),
        path=choose_path(tree, domains),
        guards=parse_guard(guard),
        pulls=parse_pulls(pull),
        seeds=parse_seeds(seeds),
        repeat=repeat,
        out=out,
    )
    settings = _settings(names, out, model, rounds_images)
    from adaptsvc.evaluation.stream_run import run_streams  # loads torch

    console, stop = Console(stderr=as_json), stop_on_signals()
    summary = run_streams(request, settings, console=console, stop=stop)
    if as_json and summary:
        typer.echo(json.dumps(summary, indent=1))
    if not summary:
        raise typer.Exit(FAILED)


def _settings(known: tuple[str, ...], out: Path, model: str, images: int) -> Settings:
    """The settings of this process, their class names the known ones, their home in `out`."""
    overrides = {"model": model} if model else {}
    learn = {"round_images": images, "window_images": WINDOW_ROUNDS * images}
    names = tuple(prompt_name(name) for name in known)
    return config.read(home=out / CACHE, classes=names, learn=learn, **overrides)
