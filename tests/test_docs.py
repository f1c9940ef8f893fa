"""Claims that the documents tell what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from typer.main import get_command

from adaptsvc import config
from adaptsvc.cli import app
from adaptsvc.prometheus import PrometheusObserver
from adaptsvc.tracing import SPANS
from tests.contracts import tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def settings_rows() -> list[str]:
    rows = []
    for key, field in config.fields():
        default = "number of cores" if field.default_factory else field.get_default()
        shown = ", ".join(default) if isinstance(default, tuple) else default
        rows.append(f"| `{key}` | {shown} | {field.description} |")
    return rows


def metric_rows() -> list[str]:
    registry = CollectorRegistry()
    PrometheusObserver(registry)
    rows = []
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(getattr(registry._names_to_collectors[family.name], "_labelnames", ()))
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return rows


def span_rows() -> list[str]:
    rows = []
    for name, span in SPANS.items():
        attributes = ", ".join(f"`{each}`" for each in span.attributes)
        rows.append(f"| `{name}` | {span.parent} | {span.meaning} | {attributes} |")
    return rows


@pytest.mark.parametrize("row", settings_rows())
def test_the_readme_lists_every_setting_as_it_is(row: str) -> None:
    assert row in README


def test_the_readme_lists_no_setting_that_is_gone() -> None:
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    listed = [line for line in table.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(settings_rows())


def test_the_metrics_page_lists_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    listed = [line for line in page.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(metric_rows())


def test_the_tracing_page_lists_every_span_and_no_other() -> None:
    page = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    listed = [line for line in page.splitlines() if line.startswith("| `")]
    assert listed == span_rows()


def test_the_operations_page_shows_the_contracts_as_they_are_tested() -> None:
    assert tables() in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_two_commands_come_before_line_40() -> None:
    top = "\n".join(README.splitlines()[:40])
    assert "make demo" in top
    assert "make test" in top


def test_every_adaptsvc_command_in_the_readme_exists() -> None:
    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^ +(?:[A-Z_]+=\S+ )*adaptsvc (\w+)", README, re.MULTILINE))
    assert named
    assert named <= known


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^ +)make (\w+)", README, re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("command", [[], *[[name] for name in get_command(app).commands]])  # type: ignore[attr-defined]
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adaptsvc", *command, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Usage" in done.stdout
    if command not in ([], ["versions"], ["topics"], ["keys"]):
        assert "Example: " in done.stdout


def test_files_the_readme_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


if __name__ == "__main__":
    print(*settings_rows(), "", *metric_rows(), "", *span_rows(), sep="\n")
