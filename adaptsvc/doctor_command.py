"""`adaptsvc doctor`: prints what will be used and why. It knows nothing of how that is found out."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Annotated

import typer
from rich.console import Console

from adaptsvc import config
from adaptsvc.doctor import Finding, examine
from adaptsvc.errors import ConfigError
from adaptsvc.tables import folded

DOCTOR_EXAMPLE = "Example: ADAPTSVC_SERVE__DEVICE=cuda adaptsvc doctor"
FAILED = 1
STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what will be used here and why, and what to do where something is missing."""
    try:
        findings = examine(config.read(), os.environ)
    except ConfigError as exc:
        advice = "correct it; the settings are listed in the README"
        findings = [Finding("settings", "error", str(exc), advice)]
    failed = any(finding.level == "error" for finding in findings)
    if as_json:
        lines = [dataclasses.asdict(finding) for finding in findings]
        typer.echo(json.dumps({"ok": not failed, "findings": lines}, indent=1))
    else:
        _print(findings)
    if failed:
        raise typer.Exit(FAILED)


def _print(findings: list[Finding]) -> None:
    table = folded("", "", "what, and why", "what to do")
    for each in findings:
        level = f"[{STYLES[each.level]}]{each.level}[/]"
        table.add_row(each.name, level, _plain(each.found), _plain(each.advice))
    Console().print(table)


def _plain(text: str) -> str:
    """Text in which brackets are no mark-up."""
    return text.replace("[", r"\[")
