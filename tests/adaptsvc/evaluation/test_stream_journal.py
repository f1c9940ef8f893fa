"""Claims about the journal of streams."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from adaptsvc.errors import AdaptsvcError
from adaptsvc.evaluation.stream_journal import StreamJournal
from tests.adaptsvc.evaluation.stream_examples import CELL, domains_result, result


def test_results_are_found_again_by_their_cell(tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.jsonl"
    journal = StreamJournal(path)
    for each in (result(), domains_result(pull=0.1)):
        journal.append(each)
    found = StreamJournal(path).results
    assert found == journal.results
    assert found[domains_result(pull=0.1).cell] == domains_result(pull=0.1)


def test_a_torn_last_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    journal = StreamJournal(path)
    second = result(dataclasses.replace(CELL, seed=1))
    journal.append(result())
    journal.append(second)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    journal = StreamJournal(path)
    assert list(journal.results) == [CELL]
    journal.append(second)
    assert path.read_bytes() == whole


def test_a_foreign_line_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"cell": "x"}\n' + result().model_dump_json() + "\n")
    with pytest.raises(AdaptsvcError, match=r"line 1 of .*results.jsonl is no result"):
        StreamJournal(path)
