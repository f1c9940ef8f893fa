"""The command line. Exit codes: 0 done, 1 the work failed, 2 wrong use. It knows nothing of how it is done.

Torch is imported only inside the commands that learn or export, so that the others start at once, and the
demo only in its own command, because its plots need the extra `report`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

from adaptsvc import config, keys_command, topics, versions_command
from adaptsvc.classify import (
    Row,
    classify_by,
    classify_here,
    current_classes,
    current_predictor,
)
from adaptsvc.config import Settings
from adaptsvc.doctor_command import DOCTOR_EXAMPLE, doctor
from adaptsvc.errors import AdaptsvcError, ConfigError
from adaptsvc.evaluation.command import EXAMPLE as EVAL_EXAMPLE
from adaptsvc.evaluation.command import evaluate
from adaptsvc.evaluation.stream_command import STREAM_EXAMPLE, evaluate_stream
from adaptsvc.logs import keep_to_one_line
from adaptsvc.metrics import Observer
from adaptsvc.processes import (
    Child,
    check_port,
    service_command,
    service_environment,
    stop_all,
    stop_on_signals,
    worker_command,
)
from adaptsvc.prometheus import PrometheusObserver
from adaptsvc.replay_command import REPLAY_EXAMPLE, replay
from adaptsvc.serving.door import check_exposure
from adaptsvc.serving.keys import keys_of
from adaptsvc.streaming import LABELS, open_log
from adaptsvc.tables import print_table
from adaptsvc.tracers import check_tracing
from streams.errors import StreamError
from streams.label_file import image_file, label_messages, read_labels
from streams.replay import send

log = logging.getLogger(__name__)
DEADLETTER = "deadletter"
RESTART_S, WATCH_S = 2.0, 0.5
DONE, FAILED, WRONG_USE = 0, 1, 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A CLIP classifier service that keeps learning from the unlabeled images it sees.",
)
app.add_typer(versions_command.app, name="versions")
app.add_typer(topics.app, name="topics")
app.add_typer(keys_command.app, name="keys")

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


def main() -> None:
    """Run a command; errors of ours become one line and an exit code."""
    try:
        app()
    except ConfigError as exc:
        _say(f"error: {exc}")
        sys.exit(WRONG_USE)
    except (AdaptsvcError, StreamError, OSError) as exc:  # OSError: a full disk, a folder not ours
        _say(f"error: {exc}")
        sys.exit(FAILED)


@app.command(epilog='Example: ADAPTSVC_CLASSES=\'["cat","dog"]\' adaptsvc up')
def up() -> None:
    """Start the service and the worker, and keep them running until Ctrl-C."""
    settings = _read()
    check_exposure(settings.serve.host, keys_of(settings.serve.keys))
    check_tracing(settings.tracing)
    check_port(settings.serve.host, settings.serve.port)
    stop = stop_on_signals()
    environment = service_environment(settings)
    service = Child.start("service", service_command(settings), environment, tied=True)
    children = [service, Child.start("worker", worker_command(), {}, tied=True)]
    url = f"http://{settings.serve.host}:{settings.serve.port}"
    _say(f"{url}, for people {url}/ui (home {settings.home}); Ctrl-C ends it")
    try:
        while not stop.wait(WATCH_S) and service.running:
            if not children[-1].running:
                log.error(
                    "the worker ended with %s; it starts again", children[-1].process.returncode
                )
                stop.wait(RESTART_S)
                children[-1] = Child.start("worker", worker_command(), {}, tied=True)
    finally:
        stop_all(children)
    if not stop.is_set():
        raise AdaptsvcError(f"the service ended by itself with status {service.process.returncode}")


@app.command(epilog="Example: ADAPTSVC_SERVE__PORT=8080 adaptsvc serve")
def serve() -> None:
    """Start the service alone."""
    settings = _read()
    check_exposure(settings.serve.host, keys_of(settings.serve.keys))
    check_tracing(settings.tracing)
    check_port(settings.serve.host, settings.serve.port)
    command = service_command(settings)
    os.execve(command[0], command, {**os.environ, **service_environment(settings)})


@app.command(epilog="Example: ADAPTSVC_LEARN__ROUND_IMAGES=512 adaptsvc worker")
def worker() -> None:
    """Start the worker alone: learn from the stream until told to stop."""
    settings = _read()
    check_tracing(settings.tracing)
    stop = stop_on_signals()
    os.nice(settings.learn.niceness)
    observer = Observer()
    if settings.learn.metrics_port:
        registry = CollectorRegistry()
        observer = PrometheusObserver(registry)
        start_http_server(settings.learn.metrics_port, settings.serve.host, registry)
    from adaptsvc.bootstrap import run_worker  # loads torch

    run_worker(settings, observer, stop, os.environ)


@app.command(epilog="Example: adaptsvc classify photo.jpg --classes cat,dog,car")
def classify(
    files: Annotated[list[Path], typer.Argument(help="Images.")],
    classes: Annotated[str, typer.Option(help="Class names, separated by commas.")] = "",
    url: Annotated[
        str, typer.Option(help="Ask a running service instead, with ADAPTSVC_API_KEY.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Say what is in images: by the serving version, by other class names, or by a service."""
    if url and classes:
        raise ConfigError(
            "got --url and --classes; the service has its own classes: give one of them"
        )
    key = os.environ.get(config.API_KEY, "")  # an argument would be in the list of processes
    rows = classify_by(url.rstrip("/"), files, key=key) if url else _classify_here(files, classes)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        print_table(
            "",
            ("file", "label", "confidence", "OOD score", "version"),
            [_cells(row) for row in rows],
        )
    if any(row.error for row in rows):
        raise typer.Exit(FAILED)


app.command("doctor", epilog=DOCTOR_EXAMPLE)(doctor)
app.command("replay", epilog=REPLAY_EXAMPLE)(replay)


@app.command(epilog="Example: adaptsvc label photos/labels.csv")
def label(
    file: Annotated[Path, typer.Argument(help="CSV with the columns image and label.")],
) -> None:
    """Send labels to the stream: of image files, found beside the CSV, or of images sent before, by id."""
    settings = _read()
    rows = read_labels(file)
    names = current_classes(settings)
    unknown = sorted({row.label for row in rows} - set(names))
    if unknown:
        raise ConfigError(
            f"{file} has the labels {', '.join(unknown[:5])}, which are no class names; expected "
            f"{', '.join(names)}: correct them or run 'adaptsvc versions classes --set FILE'"
        )
    stream = open_log(settings)
    sent = send(stream, LABELS, label_messages(rows, folder=file.parent), rate=float("inf"))
    stream.close()
    by_id = [row.image for row in rows if image_file(row.image, file.parent) is None]
    told = f", {len(by_id)} of them for images sent before ({by_id[0]}, ...)" if by_id else ""
    typer.echo(
        f"{sent} labels sent to {LABELS}{told}; {settings.tune.labels_min} new ones start a round"
    )


@app.command(epilog="Example: ADAPTSVC_MODEL=local-dir:/models/mine adaptsvc export")
def export() -> None:
    """Export the configured model and publish its zero-shot version, if that was not done yet."""
    settings = _read()
    with Console(stderr=True).status("loading and exporting the model"):
        from adaptsvc.bootstrap import prepare  # loads torch

        ready = prepare(settings)
    typer.echo(f"base {ready.encoder.base.digest[:12]} ({ready.encoder.base.swap} swap)")
    typer.echo(f"version {ready.pointer.read().version} serves")


@app.command(epilog="Example: adaptsvc demo --seed 1")
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("reports/demo"),
    keep: Annotated[bool, typer.Option(help="Leave it running until Ctrl-C.")] = False,
    color: Annotated[bool, typer.Option(help="Colours in the table.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show the whole loop on real images: clothing photos stream past, the service learns."""
    from adaptsvc.demo.run import run_demo

    stop = stop_on_signals()
    console = Console(no_color=not color, stderr=as_json)
    summary = run_demo(seed=seed, out=out, keep=keep, console=console, stop=stop)
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
    if stop.is_set() and not keep:
        raise typer.Exit(FAILED)


app.command("eval", epilog=EVAL_EXAMPLE)(evaluate)
app.command("eval-stream", epilog=STREAM_EXAMPLE)(evaluate_stream)


def _read() -> Settings:
    settings = config.read()
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("adaptsvc", "streams"):
        logging.getLogger(name).setLevel(settings.log_level)
    keep_to_one_line()
    return settings


def _classify_here(files: list[Path], classes: str) -> list[Row]:
    names = [name.strip() for name in classes.split(",") if name.strip()]
    settings = config.read(**({"classes": names} if names else {}))
    predictor = None if names else current_predictor(settings)
    if predictor is None:
        with Console(stderr=True).status(
            "loading the model (the first time it is exported, about 20 s)"
        ):
            from adaptsvc.bootstrap import zero_shot_predictor  # loads torch

            predictor = zero_shot_predictor(settings)
    return classify_here(files, predictor, settings)


def _cells(row: Row) -> tuple[str, ...]:
    if row.error:
        return row.file, f"error: {row.error}", "", "", ""
    ood = f"{row.ood_score:.3f}" + {True: " (unknown)", False: "", None: ""}[row.is_ood]
    return row.file, row.label, f"{row.confidence:.3f}", ood, str(row.version)


def _say(line: str) -> None:
    typer.echo(line, err=True)
