"""Claims about deploy/prometheus: promtool accepts the rules, each alert fires, keeps quiet, is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client import CollectorRegistry
from typer.main import get_command

from adaptsvc import config
from adaptsvc.cli import app
from adaptsvc.metrics import (
    Denial,
    LabelTrouble,
    MessageOutcome,
    Outcome,
    SampleOutcome,
    Shed,
    Stage,
)
from adaptsvc.prometheus import TOPICS, PrometheusObserver
from tests.deploy.expressions import RULES, alerts, expressions, rules, selectors
from tests.deploy.tools import PROMETHEUS, program, said

ROOT = Path(__file__).parents[2]
SERIES = [RULES.with_name("rules_test.yml"), RULES.with_name("rules_slow_test.yml")]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
# Of the targets, of Prometheus itself, and of BentoML.
OTHERS = {"job", "namespace", "instance", "le", "endpoint", "http_response_code", "alertname"}
VALUES = {
    "ood": {"yes", "no", "unknown"},
    "reason": {*get_args(Shed)},
    "why": {*get_args(Denial)},
    "trouble": {*get_args(LabelTrouble)},
    "stage": {*get_args(Stage)},
    "topic": {*TOPICS},
    "outcome": {"ok", *get_args(Outcome), *get_args(MessageOutcome), *get_args(SampleOutcome)},
}


def cases() -> list[dict[str, Any]]:
    return [case for file in SERIES for case in yaml.safe_load(file.read_text())["tests"]]


def known() -> dict[str, set[str]]:
    """Every metric of ours by the names of its series, with its own labels."""
    registry = CollectorRegistry()
    PrometheusObserver(registry)
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        labels = {*getattr(registry._names_to_collectors[family.name], "_labelnames", ())}
        ends = {"counter": ("_total",), "histogram": ("_sum", "_count", "_bucket")}
        found |= {family.name + end: labels for end in ends.get(family.type, ("",))}
    recorded = {rule["record"]: {*rule.get("labels", ())} for rule in rules() if "record" in rule}
    return found | {name: labels | {"outcome"} for name, labels in recorded.items()}


def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in said(program("promtool", PROMETHEUS), "check", "rules", str(RULES))


@pytest.mark.parametrize("file", SERIES, ids=lambda file: file.stem)
def test_alerts_fire_on_trouble_and_on_nothing_else(file: Path) -> None:
    assert "SUCCESS" in said(program("promtool", PROMETHEUS), "test", "rules", str(file))


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_has_series_that_make_it_fire_and_series_that_do_not(alert: str) -> None:
    asked = [
        bool(check["exp_samples"])
        for case in cases()
        for check in case["promql_expr_test"]
        if f'alertname="{alert}"' in check["expr"]
    ]
    assert {*asked} == {True, False}


def test_the_series_are_those_of_the_metrics_that_exist() -> None:
    """Else the cases would go on passing after a metric was renamed."""
    ours = known()
    for case in cases():
        for each in case["input_series"]:
            check_names(each["series"], ours)


@pytest.mark.parametrize("where", expressions())
def test_every_selector_names_metrics_labels_and_values_that_exist(where: str) -> None:
    check_names(expressions()[where], known())


def check_names(expr: str, ours: dict[str, set[str]]) -> None:
    """Each selector: the metric is there, its labels are its own, and a closed label has that value."""
    for selector in selectors(expr):
        name = selector.name or ""
        if not name.startswith("adaptsvc"):
            assert name == "up" or name.startswith("bentoml_service_request_"), name
            continue
        assert name in ours, name
        for matcher in selector.matchers.matchers:
            assert matcher.name in ours[name] | OTHERS, (name, matcher.name)
            for value in matcher.value.split("|") if matcher.name in VALUES else ():
                assert value in VALUES[matcher.name], (name, matcher.name, value)


def test_the_names_of_alerts_and_of_recordings_are_each_given_once_or_with_other_labels() -> None:
    named = [(r.get("alert") or r["record"], str(r.get("labels"))) for r in rules()]
    assert len({*named}) == len(named)
    assert all(name.startswith("Adaptsvc") for name in alerts())


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_says_how_bad_it_is_and_where_its_section_is(alert: str) -> None:
    rule = alerts()[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    notes = rule["annotations"]
    assert notes["summary"].endswith(".")
    assert notes["description"].endswith(".")
    assert notes["runbook_url"] == f"docs/runbook.md#{alert.lower()}"


def test_the_runbook_has_one_section_for_each_alert_in_their_order() -> None:
    assert [*SECTIONS] == [*alerts()]


@pytest.mark.parametrize("alert", SECTIONS)
def test_each_section_says_what_it_means_what_users_notice_where_to_look_and_what_to_do(
    alert: str,
) -> None:
    heads = re.findall(r"^\*\*(.+?)\.\*\*", SECTIONS[alert], re.MULTILINE)
    assert heads == ["It means", "Users notice", "Look at", "Do"]


def test_the_commands_of_the_runbook_exist() -> None:
    named = re.findall(r"(?:`|^    )adaptsvc ((?:[a-z-]+ ?)+)", RUNBOOK, re.MULTILINE)
    assert named
    for words in named:
        command: Any = get_command(app)
        for word in words.split():
            if not hasattr(command, "commands"):
                break
            command = command.commands[word]


def test_the_metrics_and_settings_that_the_runbook_names_exist() -> None:
    settings = {key for key, _ in config.fields()}
    assert re.search("`adaptsvc_", RUNBOOK)
    for name in re.findall(r"`(adaptsvc_\w+)", RUNBOOK):
        assert name in known() or f"{name}_bucket" in known(), name
    sections = {key.partition(".")[0] for key in settings if "." in key}
    for name in re.findall(r"`([a-z]+\.[a-z_.]+)`", RUNBOOK):
        assert name in settings or name.partition(".")[0] not in sections, name
