"""Claims about tables and picture."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from adaptsvc.evaluation.stream_journal import StreamResult
from adaptsvc.evaluation.stream_plot import draw_streams
from adaptsvc.evaluation.stream_summary import summarise_streams
from adaptsvc.evaluation.stream_table import stream_tables, verdict
from tests.adaptsvc.evaluation.stream_examples import (
    CELL,
    domains_result,
    figures,
    moment,
    result,
)


def printed(results: Sequence[StreamResult], width: int = 100) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width)
    for table in stream_tables(summarise_streams(results)):
        console.print(table)
    return text.getvalue()


def both() -> list[StreamResult]:
    """Two seeds of a refusing service with a long name, and the stream of domains at two pulls."""
    cells = [
        dataclasses.replace(CELL, stream="flipped-labels", domains=("art_painting",), seed=seed)
        for seed in (0, 1)
    ]
    painted = figures(art_painting=0.5)
    refused = moment(0, outcome="refused", reasons=("disagrees_with_zero_shot",), figures=painted)
    results = [
        result(c, zero_shot=painted, moments=(refused,), after_parts=(painted,), returns=1)
        for c in cells
    ]
    return [*results, domains_result(), domains_result(pull=0.5)]


def test_the_tables_fit_100_columns_and_cut_nothing() -> None:
    text = printed(both())
    assert "…" not in text
    assert "0/2/0/0" in text
    assert "±0.0" in text
    assert "disagrees_with_zero_shot" in text
    assert "returns to an earlier version" in text


def test_one_seed_fits_80_columns() -> None:
    assert "…" not in printed([result(), domains_result()], width=80)


def test_forgetting_is_shown_beside_zero_shot_and_the_matrix_below() -> None:
    lines = printed([domains_result(), domains_result(pull=0.5)]).splitlines()
    assert any(line.split()[:3] == ["zero-shot", "50.0", "0.0"] for line in lines)
    assert any(line.split() == ["guard,", "pull", "0.5", "53.3", "20.0"] for line in lines)
    assert sum(line.split() == ["after", "sketch", "70.0", "60.0", "20.0"] for line in lines) == 2


def test_the_verdict_counts_rows_with_the_guard_and_names_the_worst() -> None:
    lost = result(dataclasses.replace(CELL, stream="noise"), after_parts=(figures(photo=0.25),))
    off = result(dataclasses.replace(CELL, guard=False), after_parts=(figures(photo=0.0),))
    assert "1 of 1 rows" in verdict(summarise_streams([result(), off]))
    text = verdict(summarise_streams([result(), lost, off]))
    assert "1 of 2 rows" in text
    assert "noise, photo, guard, misses by 24.0 points" in text
    assert "nothing was measured" in verdict(summarise_streams([off]))


def test_the_picture_is_a_png_with_something_on_it(tmp_path: Path) -> None:
    draw_streams(both(), tmp_path / "report.png", "data")
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture).std() > 10
