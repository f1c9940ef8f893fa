"""Claims about the journal of results."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from adaptsvc.errors import AdaptsvcError
from adaptsvc.evaluation.journal import Journal
from tests.adaptsvc.evaluation.examples import CELL, result

OTHER = dataclasses.replace(CELL, seed=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of two results."""
    journal = Journal(tmp_path / "out" / "results.jsonl")
    journal.append(result())
    journal.append(result(OTHER))
    return journal.path


def test_what_was_appended_is_there_again(path: Path) -> None:
    assert Journal(path).results == {CELL: result(), OTHER: result(OTHER)}


def test_a_cell_of_another_configuration_is_another_cell(path: Path) -> None:
    assert dataclasses.replace(CELL, digest="another") not in Journal(path).results


@pytest.mark.parametrize("kept", [1, 20, -1], ids=["a byte", "some bytes", "all but the newline"])
def test_a_truncated_last_line_is_dropped_and_can_be_written_again(
    path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + (last + b"\n")[:kept])
    with caplog.at_level(logging.WARNING):
        journal = Journal(path)
    assert list(journal.results) == [CELL]
    assert "was cut short" in caplog.text
    journal.append(result(OTHER))
    assert path.read_bytes() == first + b"\n" + last + b"\n"


def test_a_damaged_line_before_the_last_is_refused_by_its_number(path: Path) -> None:
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(AdaptsvcError, match=r"line 1 of .*results\.jsonl is no result"):
        Journal(path)


def test_a_figure_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        result(figures={"accuracy": float("nan")})
