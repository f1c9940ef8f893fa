"""Claims about the drawn dashboards: what is asked, where panels lie, how numbers and names look."""

from __future__ import annotations

import argparse
import doctest
import json
import math
from itertools import combinations
from pathlib import Path

import httpx
import pytest

from benchmarks import board_queries, board_units, boards
from benchmarks.board_queries import KINDS, Line, Place, Prometheus, Query, Span, Step
from benchmarks.boards import COLORS, NAME_ROWS, WIDTH_PX, box, color_of, height_px, named
from deploy.grafana.variables import filled
from tests.deploy.expressions import BOARDS

every_board = pytest.mark.parametrize("name", board_queries.names())


@pytest.mark.parametrize("module", [board_queries, board_units, boards])
def test_the_examples_of_the_docstrings_hold(module: object) -> None:
    tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert tried.attempted > 0
    assert tried.failed == 0


def test_every_dashboard_can_be_drawn() -> None:
    assert board_queries.names() == sorted(file.stem for file in BOARDS)


@every_board
def test_no_variable_is_left_in_what_is_asked(name: str) -> None:
    board = board_queries.read(name)
    asked = [query.expr for panel in board.panels for query in panel.queries]
    asked += [mark.expr for mark in board.marks]
    assert len(asked) > 8
    assert [expr for expr in asked if "$" in filled(expr, 20)] == []


@every_board
def test_units_and_colors_of_all_panels_are_known(name: str) -> None:
    board = board_queries.read(name)
    assert {panel.kind for panel in board.panels} <= {*KINDS}
    assert all(board_units.formatted(0.5, panel.unit) for panel in board.panels)
    colors = {step.color for panel in board.panels for step in panel.steps}
    assert colors | {mark.color for mark in board.marks} <= {*COLORS}


def test_a_panel_of_another_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads((board_queries.FOLDER / "drift.json").read_text())
    content["panels"][1]["type"] = "heatmap"
    (tmp_path / "odd.json").write_text(json.dumps(content))
    monkeypatch.setattr(board_queries, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="'Drift' is a heatmap"):
        board_queries.read("odd")


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="'furlong'"):
        board_units.formatted(1, "furlong")


@every_board
def test_panels_lie_on_the_page_and_not_over_each_other(name: str) -> None:
    panels = board_queries.read(name).panels
    boxes = [box(panel.place) for panel in panels]
    assert min(each.left for each in boxes) > 0
    assert max(each.left + each.width for each in boxes) < WIDTH_PX
    assert max(each.top + each.height for each in boxes) < height_px(panels)
    for one, other in combinations(boxes, 2):
        beside = one.left + one.width < other.left or other.left + other.width < one.left
        below = one.top + one.height < other.top or other.top + other.height < one.top
        assert beside or below


def test_the_grid_has_24_columns() -> None:
    whole, half = box(Place(0, 0, 24, 1)), box(Place(12, 0, 12, 1))
    assert half.left == WIDTH_PX / 2 + boards.GAP_PX / 2
    assert half.left + half.width == pytest.approx(whole.left + whole.width)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.0, "s", "0 s"),
        (2e-6, "s", "2 µs"),
        (0.25, "s", "250 ms"),
        (7200.0, "s", "2 h"),
        (250.0, "ms", "250 ms"),
        (3 * 2**20, "bytes", "3 MiB"),
        (0.072, "percentunit", "7.2%"),
        (7.2, "percent", "7.2%"),
        (1234567.0, "none", "1234567"),
        (1234567.0, "short", "1.23 Mil"),
        (31.4159, "reqps", "31.4 req/s"),
        (1.0, "bool_yes_no", "Yes"),
        (0.0, "bool_on_off", "Off"),
    ],
)
def test_numbers_are_written_as_grafana_writes_them(value: float, unit: str, said: str) -> None:
    assert board_units.formatted(value, unit) == said


def test_a_long_title_is_smaller_and_a_short_one_as_large_as_the_others() -> None:
    assert boards.title_pt("Worker", 200) == boards.TITLE_PT
    assert boards.title_pt("Refused or failed in 6 hours", 226) < boards.TITLE_PT


def test_a_number_has_the_color_of_the_last_threshold_it_reaches() -> None:
    steps = [Step(-math.inf, "green"), Step(0.5, "orange"), Step(5, "red")]
    assert [color_of(value, steps) for value in (0.0, 0.5, 9.0)] == [*map(COLORS.get, COLORS)]
    assert color_of(3, []) == boards.INK


def test_entries_of_a_legend_do_not_overlap_and_what_has_no_room_is_counted() -> None:
    few = named(["median", "99th percentile"], 480)
    assert [each.row for each in few] == [0, 0]
    assert few[1].left > len("median") * boards.LETTER_PX
    texts = [f"127.0.0.1:3000 {number}" for number in range(40)]
    many = named(texts, 480)
    assert max(each.row for each in many) == NAME_ROWS - 1
    assert many[-1].text == f"and {len(texts) - len(many) + 1} more"


def test_a_line_that_was_interrupted_has_a_gap_and_two_regions() -> None:
    samples = [(0.0, "3"), (5.0, "3"), (15.0, "1"), (20.0, "NaN")]
    times = Span(0, 20, 5).times
    line = Line("", board_queries.on_times(samples, times))
    assert math.isnan(line.values[2])
    assert board_queries.regions(line, times) == [(0, 5), (15, 15)]


@pytest.mark.parametrize("text", ["", "m", "0m", "-3m", "15", "1.5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no duration"):
        boards.seconds_of(text)


def test_a_day_has_no_more_points_than_fit() -> None:
    when = board_queries.span(1e6, 86400)
    assert len(when.times) <= board_queries.POINTS + 1
    assert when.start % when.step == 0 == when.end % when.step


def answer(request: httpx.Request) -> httpx.Response:
    """What a Prometheus might say; nobody was turned away."""
    query = request.url.params["query"]
    if query == "bad(":
        return httpx.Response(400, json={"status": "error", "error": "parse error"})
    one = {"metric": {"stage": "decode"}, "values": [[5, "0.5"]], "value": [10, "0.5"]}
    none = {"metric": {}, "values": [[5, "NaN"]], "value": [10, "NaN"]}
    found = {"data": {"result": [] if "adaptsvc_shed_total" in query else [one, none]}}
    return httpx.Response(200, json={"status": "success", **found})


@pytest.fixture
def prometheus() -> Prometheus:
    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://prometheus")
    return Prometheus(client, Span(0, 10, 5))


def test_series_are_named_and_numbers_are_those_that_are_some(prometheus: Prometheus) -> None:
    query = Query("x[$__rate_interval]", "{{stage}}")
    assert [line.name for line in prometheus.lines(query)] == ["decode", ""]
    assert prometheus.numbers(query) == [0.5]


def test_a_refused_query_is_named(prometheus: Prometheus) -> None:
    with pytest.raises(ValueError, match=r"does not answer bad\(: parse error"):
        prometheus.lines(Query("bad(", ""))


@every_board
def test_a_board_is_drawn_at_the_width_of_a_readme(
    name: str, prometheus: Prometheus, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    board = board_queries.read(name)
    boards.draw(board, prometheus, Span(0, 10, 5), tmp_path / "board.png")
    head = (tmp_path / "board.png").read_bytes()[16:24]
    assert int.from_bytes(head[:4]) == WIDTH_PX
    assert int.from_bytes(head[4:]) == height_px(board.panels)
