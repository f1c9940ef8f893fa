"""Claims about the dashboards: the files are what the code makes, and every panel explains itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.dashboards import FOLDER, dashboards
from tests.deploy.expressions import BOARDS, ROOT, alerts, board, panels

every_board = pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
PANELS = {f"{file.stem}: {each['title']}": each for file in BOARDS for each in panels(file)}


def _limits(panel: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    )
    return found


def test_the_files_are_what_the_code_makes() -> None:
    """`python -m deploy.grafana.dashboards` writes them."""
    found = {file.name: file.read_text() for file in FOLDER.glob("*.json")}
    assert found == dashboards()
    assert {*found} == {"serving.json", "learning.json", "drift.json", "streams.json"}


@pytest.mark.parametrize("name", PANELS)
def test_each_panel_has_a_unit_and_says_what_to_do(name: str) -> None:
    panel = PANELS[name]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"].split()) >= 10
    assert panel["description"].endswith(".")
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"$datasource"}
    letters = [target["refId"] for target in panel["targets"]]
    assert len({*letters}) == len(letters)


def test_alerts_that_panels_send_to_exist() -> None:
    named = {each for panel in PANELS.values() for each in _alerts(panel)}
    assert len(named) > 10
    assert named <= {*alerts()}


def _alerts(panel: dict[str, Any]) -> list[str]:
    return re.findall(r"Adaptsvc\w+", panel["description"])


@every_board
def test_a_board_can_be_chosen_by_source_namespace_and_instance(file: Path) -> None:
    variables = {each["name"]: each for each in board(file)["templating"]["list"]}
    assert [*variables] == ["datasource", "namespace", "instance"]
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["namespace"]["allValue"] == ".*"  # also what has no namespace
    for panel in panels(file):
        for target in panel["targets"]:
            assert 'namespace=~"$namespace"' in target["expr"]


@every_board
def test_a_board_shows_promotions_and_rollbacks_and_has_each_panel_once(file: Path) -> None:
    found = board(file)
    assert [each["name"] for each in found["annotations"]["list"]] == ["Promotions", "Rollbacks"]
    assert found["uid"] == f"adaptsvc-{file.stem}"
    assert found["tags"] == ["adaptsvc"]
    ids = [panel["id"] for panel in found["panels"]]
    assert len({*ids}) == len(ids)
    titles = [panel["title"] for panel in panels(file)]
    assert len({*titles}) == len(titles)


@every_board
def test_an_annotation_is_never_0_which_grafana_would_not_show(file: Path) -> None:
    for note in board(file)["annotations"]["list"]:
        assert note["expr"].endswith(" > 0")


@every_board
def test_no_two_panels_of_a_board_overlap_or_stick_out(file: Path) -> None:
    cells = [
        (x, y)
        for panel in board(file)["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len({*cells}) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("name", [name for name, each in PANELS.items() if _limits(each)])
def test_thresholds_rise_as_grafana_wants_them(name: str) -> None:
    values = [step["value"] for step in _limits(PANELS[name])]
    assert values[0] is None
    assert values[1:] == sorted({*values[1:]})


def test_grafana_reads_them_from_where_compose_mounts_them() -> None:
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/dashboards.yml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert f"./k8s/grafana:{provider['options']['path']}:ro" in compose["grafana"]["volumes"]
    (mounted,) = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["rule_files"]
    target = f"./deploy/prometheus/rules.yml:/etc/prometheus/{mounted}:ro"
    assert target in compose["prometheus"]["volumes"]


def test_grafana_knows_how_often_prometheus_scrapes() -> None:
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/datasources.yml").read_text())["datasources"]
    scraping = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]
