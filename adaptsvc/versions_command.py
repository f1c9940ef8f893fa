"""The commands `versions ...`: history, rollback, pins, pruning, signing. It knows nothing of how."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer

from adaptsvc import config
from adaptsvc.classes_command import CLASSES_EXAMPLE, classes
from adaptsvc.errors import AdaptsvcError, ConfigError
from adaptsvc.reproduce_command import REPRODUCE_EXAMPLE, reproduce
from adaptsvc.state import State, open_state
from adaptsvc.tables import print_table
from adaptsvc.versions.difference import Difference, difference
from adaptsvc.versions.history import Desk, Entry
from adaptsvc.versions.retention import make_plan, prune

FAILED = 1
COLUMNS = ("version", "serving", "parent", "method", "agreement", "temperature", "created", "")

app = typer.Typer(no_args_is_help=True, help="The history of versions.")
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Version = Annotated[int, typer.Argument(min=0, help="Its number.")]


@app.command("list", epilog="Example: adaptsvc versions list --json")
def list_versions(as_json: AsJson = False) -> None:
    """Every version and which serves, and why candidates were refused."""
    desk, _ = _open()
    entries = desk.entries(desk.ids())
    if as_json:
        typer.echo(json.dumps([_listed(entry) for entry in entries], indent=1))
        return
    if not entries:
        typer.echo("no version yet: 'adaptsvc up', a worker or 'adaptsvc export' makes the first")
        return
    held = desk.pointer.read().held
    print_table("", COLUMNS, [_cells(entry, held=held) for entry in entries])
    refused = [
        (str(r.draft.parent), r.draft.method, ", ".join(r.reasons), _time(r.at))
        for r in desk.refusals()
    ]
    if refused:
        print_table("refused candidates", ("parent", "method", "reasons", "at"), refused)


@app.command("show", epilog="Example: adaptsvc versions show 3")
def show(version: Version) -> None:
    """One version's manifest; every file of it is verified."""
    desk, _ = _open()
    entry = desk.entry(version)
    if entry.manifest is None:
        raise AdaptsvcError(f"{entry.reason} (code {entry.code})")
    typer.echo(entry.manifest.model_dump_json(indent=1))


@app.command("diff", epilog="Example: adaptsvc versions diff 0 3")
def diff(before: Version, after: Version, as_json: AsJson = False) -> None:
    """What the second version has that the first has not."""
    desk, _ = _open()
    found = difference(desk.store.load(before), desk.store.load(after))
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    print_table("", ("", str(before), str(after)), _rows(found))


@app.command("activate", epilog="Example: adaptsvc versions activate 0 --hold")
def activate(
    version: Version,
    hold: Annotated[
        bool, typer.Option(help="Promote nothing over it until the next activate.")
    ] = False,
) -> None:
    """Make a version serve; the next round starts from it, unless it is held."""
    desk, _ = _open()
    desk.activate(version, hold=hold)
    typer.echo(f"version {version} serves from now on" + (", held" if hold else ""))


@app.command("pin", epilog="Example: adaptsvc versions pin 3")
def pin(version: Version) -> None:
    """Keep a version whatever its age."""
    desk, _ = _open()
    desk.pin(version)
    typer.echo(f"version {version} is pinned")


@app.command("unpin", epilog="Example: adaptsvc versions unpin 3")
def unpin(version: Version) -> None:
    """Let a version go when it is old."""
    desk, _ = _open()
    desk.unpin(version)
    typer.echo(f"version {version} is not pinned")


@app.command("prune", epilog="Example: adaptsvc versions prune --dry-run")
def prune_versions(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the weights of old versions, as the worker does after each promotion."""
    desk, state = _open()
    keep = config.read().versions.keep
    tried = state.shadow.read().versions
    plan = make_plan(desk.store, desk.pointer, desk.pins, keep, tried)
    if as_json:
        typer.echo(json.dumps({"removed": plan.removed, "kept": dict(plan.kept)}, indent=1))
    else:
        rows = [
            (str(each), plan.kept.get(each, "goes")) for each in sorted({*plan.kept, *plan.removed})
        ]
        print_table("", ("version", "why it stays"), rows)
    if not dry_run:
        with _writing(state):
            done = prune(desk.store, desk.pointer, desk.pins, keep, tried)
        typer.echo(f"{len(done.versions)} versions and {len(done.bases)} bases deleted", err=True)


@app.command("sign", epilog="Example: adaptsvc versions sign 3")
def sign(
    versions: Annotated[list[int] | None, typer.Argument(help="Their numbers.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All there are, pruned ones too.")] = False,
) -> None:
    """Sign versions that you trust with the first of `versions.signing_keys`."""
    if not config.read().versions.keys():
        raise ConfigError("versions.signing_keys is empty; set the key to sign with")
    if bool(versions) == every:
        raise ConfigError("got both or neither of versions and --all; give one of them")
    desk, _ = _open()
    for version in versions or desk.ids():
        desk.store.sign(version)
        typer.echo(f"version {version} is signed")


app.command("classes", epilog=CLASSES_EXAMPLE)(classes)
app.command("reproduce", epilog=REPRODUCE_EXAMPLE)(reproduce)


def _open() -> tuple[Desk, State]:
    settings = config.read()
    state = open_state(settings)
    shadow = state.shadow if settings.shadow.fraction else None
    return Desk(state.store, state.pointer, state.pins, shadow), state


@contextmanager
def _writing(state: State) -> Iterator[None]:
    """Hold the lease, so that no worker publishes meanwhile."""
    if not state.lease.acquire():
        raise AdaptsvcError(
            "a worker holds the lease, and prunes by itself after each promotion and every "
            "stream.retention_interval_s; stop it first, or wait"
        )
    try:
        yield
    finally:
        state.lease.release()


def _listed(entry: Entry) -> dict[str, Any]:
    content = {} if entry.manifest is None else entry.manifest.model_dump(mode="json")
    return {**content, **{k: v for k, v in asdict(entry).items() if k != "manifest"}}


def _cells(entry: Entry, *, held: bool) -> tuple[str, ...]:
    manifest = entry.manifest
    serving = ("held" if held else "*") if entry.serving else ""
    marks = ["pinned"] * bool(entry.pinned) + ["pruned"] * (entry.condition == "pruned")
    marks += [entry.shadow] * bool(entry.shadow)
    if manifest is None:
        return str(entry.id), serving, "", "", "", "", "", " ".join([*marks, entry.code])
    agreement = manifest.metrics.get("guard_agreement")
    return (
        str(entry.id),
        serving,
        "" if manifest.parent is None else str(manifest.parent),
        manifest.method,
        "" if agreement is None else f"{agreement:.3f}",
        f"{manifest.calibration.temperature:.3f}",
        _time(manifest.created_at),
        " ".join(marks),
    )


def _rows(found: Difference) -> list[tuple[str, str, str]]:
    changed = {**found.fields, **{f"metrics.{k}": v for k, v in found.metrics.items()}}
    rows = [(name, str(each.before), str(each.after)) for name, each in changed.items()]
    rows.append(("classes", ", ".join(found.classes_removed), ", ".join(found.classes_added)))
    least = min(found.class_similarity.values(), default=None)
    rows.append(("least class similarity", "", "" if least is None else f"{least:.4f}"))
    moved = max((each.relative for each in found.parameters.values()), default=None)
    rows.append(("parameters that both change", "", str(len(found.parameters))))
    rows.append(("largest relative change", "", "" if moved is None else f"{moved:.4f}"))
    only = len(found.parameters_removed), len(found.parameters_added)
    rows.append(("parameters that only one changes", str(only[0]), str(only[1])))
    return rows


def _time(at: Any) -> str:
    return str(at.isoformat(sep=" ", timespec="seconds"))
