"""`adaptsvc keys new`: a key for whoever asks the service, and its hash for the settings."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from adaptsvc.errors import ConfigError
from adaptsvc.serving.keys import ROLES, Role, new_key

NEW_EXAMPLE = "Example: adaptsvc keys new --role data --name phone-app"
NAME = r"[\w.-]{1,64}"

app = typer.Typer(no_args_is_help=True, help="API keys of the service.")


@app.command("new", epilog=NEW_EXAMPLE)
def new(
    role: Annotated[str, typer.Option(help="data: classify and read; admin: all of it.")] = "data",
    name: Annotated[str, typer.Option(help="Whose key it is.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Print a new key, which is kept nowhere, and the line with its hash for `serve.keys`."""
    key, known = new_key(_checked_name(name or f"{role}-key"), _checked_role(role))
    if as_json:
        typer.echo(json.dumps({"key": key, "hash": str(known)}, indent=1))
        return
    typer.echo(f"key, shown this once:    {key}")
    typer.echo(f"line for serve.keys:     {known}")
    typer.echo(f"or in the environment:   ADAPTSVC_SERVE__KEYS='{json.dumps([str(known)])}'")


def _checked_role(role: str) -> Role:
    for each in ROLES:
        if role == each:
            return each
    raise ConfigError(f"got --role {role!r}; expected one of {', '.join(ROLES)}")


def _checked_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"got --name {name!r}; expected 1 to 64 letters, digits, dots, dashes, underscores"
        )
    return name
