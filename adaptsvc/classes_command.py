"""`adaptsvc versions classes`: which classes serve, and asking for others. It knows nothing of how."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console

from adaptsvc import config
from adaptsvc.errors import AdaptsvcError, ConfigError
from adaptsvc.serving.schemas import Classes, ClassesAsked
from adaptsvc.state import open_state
from adaptsvc.versions.task_desk import TaskDesk
from adaptsvc.versions.tasks import Asked, Wanted

CLASSES_EXAMPLE = "Example: adaptsvc versions classes --set names.txt --prompt 'a sketch of a {}.'"
MOST_BYTES, SHOWN, POLL_S = 16 * 2**20, 10, 0.2
STRUCTURED = (".json", ".yaml", ".yml")


def classes(
    file: Annotated[
        Path | None,
        typer.Option(
            "--set",
            help="Ask for the classes in this file: one name a line, or JSON or YAML, a list or the keys "
            "classes and prompt.",
        ),
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="Template with {}; by default what the file or the version has.")
    ] = "",
    wait: Annotated[
        float, typer.Option(min=0, help="Longest wait for the worker, in seconds.")
    ] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Which classes serve; with --set other ones, which the worker makes a version for."""
    if prompt and file is None:
        raise ConfigError("got --prompt without --set; give the file with the class names too")
    wanted = None if file is None else read_wanted(file, prompt)
    state = open_state(config.read())
    desk = TaskDesk(state.store, state.pointer, state.tasks)
    if wanted is not None and desk.ask(wanted):
        with Console(stderr=True).status("waiting for the worker"):
            _check(wait_for_answer(desk.asked, wait, time.monotonic, time.sleep), wait)
    found = Classes.of(desk.serving(), ClassesAsked.of(desk.asked()))
    typer.echo(found.model_dump_json(indent=1) if as_json else _text(found))


def read_wanted(file: Path, prompt: str = "") -> Wanted:
    """The classes in a file.

    Args:
        file: text with one name a line, or JSON or YAML.
        prompt: in place of the file's.

    Raises:
        ConfigError: it holds no class names, or some that cannot be used.
    """
    if file.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{file} is over {MOST_BYTES} bytes; expected class names")
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = _parsed(text) if file.suffix.lower() in STRUCTURED else {"classes": _lines(text)}
        return Wanted.model_validate({**found, **({"prompt": prompt} if prompt else {})})
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise ConfigError(f"{file}: {where}: {first['msg']}") from exc
    except (UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"{file} cannot be read: {exc}") from exc


def wait_for_answer(
    read: Callable[[], Asked],
    timeout_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Asked:
    """What is known once the last request is answered, or when the time is over."""
    deadline = clock() + timeout_s
    while (asked := read()).waiting is not None and clock() < deadline:
        sleep(POLL_S)
    return asked


def _check(asked: Asked, waited_s: float) -> None:
    request, answer = asked.request, asked.answer
    assert request is not None
    if answer is None:
        raise AdaptsvcError(
            f"no worker has answered request {request.id} in {waited_s:g} s; it stays, and the next worker "
            "takes it: start one, then look with 'adaptsvc versions classes'"
        )
    if answer.version is None:
        raise AdaptsvcError(f"request {request.id} was refused: {answer.reason}")
    typer.echo(f"version {answer.version} has these classes", err=True)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _parsed(text: str) -> dict[str, Any]:
    """JSON is YAML; a name such as `no` has to be in quotes in both."""
    found = yaml.safe_load(text)
    return found if isinstance(found, dict) else {"classes": found}


def _text(found: Classes) -> str:
    shown = ", ".join(found.classes[:SHOWN])
    more = f" and {len(found.classes) - SHOWN} more" if len(found.classes) > SHOWN else ""
    lines = [f"version {found.model_version} serves {len(found.classes)} classes: {shown}{more}"]
    lines.append(f"prompt {json.dumps(found.prompt, ensure_ascii=False)}")
    if (asked := found.request) is not None:
        told = {
            "waiting": "waits for a worker",
            "done": f"was done: version {asked.version}",
            "refused": f"was refused: {asked.reason}",
        }[asked.stage]
        lines.append(f"request {asked.id} for {len(asked.classes)} classes {told}")
    return "\n".join(lines)
