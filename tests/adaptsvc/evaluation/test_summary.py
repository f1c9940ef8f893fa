"""Claims about means, deviations and the tables of them."""

from __future__ import annotations

import pytest
from rich.console import Console

from adaptsvc.evaluation.journal import Cell, Result
from adaptsvc.evaluation.split import SETTINGS, Setting
from adaptsvc.evaluation.summary import AVERAGE, Spread, spread, summarise
from adaptsvc.evaluation.table import tables
from tests.adaptsvc.evaluation.examples import FIGURES, result


def scored(
    accuracy: float, domain: str, seed: int = 0, method: str = "ueo", setting: Setting = "open"
) -> Result:
    cell = Cell(domain, setting, method, seed, "digest")
    return result(cell, figures={**FIGURES, "accuracy": accuracy})


def printed(results: list[Result], width: int = 80) -> str:
    console = Console(width=width, record=True, force_terminal=False)
    for table in tables(summarise(results)):
        console.print(table)
    return console.export_text()


def test_mean_and_deviation_are_over_the_seeds() -> None:
    (row, _) = summarise([scored(a, "photo", seed) for seed, a in enumerate((0.5, 0.7, 0.9))])
    found = row.figures["accuracy"]
    assert [found.mean, found.std, found.n] == pytest.approx([0.7, 0.2, 3])


def test_one_seed_has_no_deviation() -> None:
    assert spread([0.5]) == Spread(0.5, None, 1)


def test_the_deviation_of_the_average_is_not_that_between_domains() -> None:
    results = [
        scored(accuracy, domain, seed)
        for domain, pair in (("photo", (0.8, 0.9)), ("sketch", (0.4, 0.3)))
        for seed, accuracy in enumerate(pair)
    ]
    average = [row for row in summarise(results) if row.domain == AVERAGE]
    found = average[0].figures["accuracy"]
    assert [found.mean, found.std, found.n] == pytest.approx([0.6, 0.0, 2])


def test_the_table_shows_mean_and_deviation_of_each_domain_and_of_the_average() -> None:
    results = [scored(0.5 + 0.1 * s, d, s) for d in ("photo", "sketch") for s in range(3)]
    text = printed(results)
    assert text.count("60.0 ±10.0") == 3
    assert text.index("photo") < text.index("sketch") < text.index(AVERAGE)


def test_the_average_of_one_domain_is_not_shown() -> None:
    assert AVERAGE not in printed([scored(0.5, "photo")])


def test_figures_that_no_row_has_get_no_table_and_a_missing_one_a_dash() -> None:
    closed = result(Cell("photo", "closed", "ueo", 0, ""), figures={"accuracy": 0.5, "ece": 0.1})
    assert "AUROC" not in printed([closed])
    other = result(Cell("photo", "open", "ueo", 0, ""))
    assert " - " in printed([closed, other])


def test_the_best_method_of_a_column_is_bold_and_the_least_error_is_best() -> None:
    rows = summarise([scored(0.5, "photo"), scored(0.6, "photo", method="core")])
    accuracy = tables(rows)[0]
    assert list(accuracy.columns[1].cells) == ["", "50.0", "[bold]60.0[/bold]"]
    worse = result(Cell("photo", "open", "core", 0, ""), figures={**FIGURES, "ece": 0.2})
    ece = tables(summarise([result(), worse]))[-1]
    assert list(ece.columns[1].cells) == ["", "[bold]10.0[/bold]", "20.0"]


def test_the_widest_table_fits_80_columns() -> None:
    results = [
        scored(0.5 + seed / 50, "photo", seed, "information-maximisation", setting)
        for setting in SETTINGS
        for seed in range(3)
    ]
    text = printed(results)
    assert "…" not in text
    assert text.count("information-maximisation   52.0 ±2.0") == 1
