"""Claims about a run: what it leaves on disk, and how it goes on."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adaptsvc.config import Settings
from adaptsvc.errors import AdaptsvcError, ConfigError
from adaptsvc.evaluation.data import Entry, read_extra
from adaptsvc.evaluation.journal import Journal
from adaptsvc.evaluation.plan import Request
from adaptsvc.evaluation.run import REPORT, RESULTS, SUMMARY, methods, run_evaluation
from tests.adaptsvc.evaluation.conftest import MakeTree
from tests.adaptsvc.evaluation.examples import StopAfter

Run = Callable[[Request], tuple[dict[str, Any], str]]


@pytest.fixture
def evaluate(eval_settings: Callable[..., Settings], one_thread: None) -> Callable[..., Any]:
    """`evaluate(request, stop)`: the summary, and what was printed."""

    def run(request: Request, stop: threading.Event | None = None) -> tuple[dict[str, Any], str]:
        text = io.StringIO()
        console = Console(file=text, width=200)
        summary = run_evaluation(
            request, eval_settings(), console=console, stop=stop or threading.Event()
        )
        return summary, text.getvalue()

    return run


@pytest.fixture
def request_(make_tree: MakeTree, request_for: Callable[..., Request]) -> Request:
    """Two domains, two settings, two methods, two seeds: 16 cells."""
    return request_for(make_tree(), settings=("closed", "open"), seeds=(0, 1))


def test_a_run_leaves_results_summary_and_picture(evaluate: Run, request_: Request) -> None:
    summary, text = evaluate(request_)
    assert len(Journal(request_.out / RESULTS).results) == summary["cells"] == 16
    assert json.loads((request_.out / SUMMARY).read_text()) == summary
    assert (request_.out / REPORT).read_bytes().startswith(b"\x89PNG")
    assert "accuracy %" in text
    assert "mean ± standard deviation over 2 seeds" in text
    row = summary["average"][0]["figures"]["accuracy"]
    assert (0 <= row["mean"] <= 1, row["n"]) == (True, 2)


def test_a_second_run_measures_nothing_again(evaluate: Run, request_: Request) -> None:
    summary, _ = evaluate(request_)
    before = (request_.out / RESULTS).read_bytes()
    again, text = evaluate(request_)
    assert (request_.out / RESULTS).read_bytes() == before
    assert "16 of 16 cells were measured before" in text
    assert again == summary


def test_an_interrupted_run_goes_on_to_the_same_summary(
    evaluate: Callable[..., Any], request_: Request, tmp_path: Path
) -> None:
    nothing, text = evaluate(request_, StopAfter(50))
    assert nothing == {}
    done = len(Journal(request_.out / RESULTS).results)
    assert 0 < done < 16
    assert f"interrupted: {done} of 16 cells" in text
    assert not (request_.out / SUMMARY).exists()
    resumed, _ = evaluate(request_)
    (request_.out / RESULTS).unlink()
    uninterrupted, _ = evaluate(request_)
    assert resumed == uninterrupted


def test_a_cell_whose_line_was_cut_is_measured_again(evaluate: Run, request_: Request) -> None:
    summary, _ = evaluate(request_)
    path = request_.out / RESULTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    again, text = evaluate(request_)
    assert "15 of 16 cells were measured before" in text
    assert again == summary
    assert path.read_bytes().count(b"\n") == 16


def test_an_unreadable_file_is_named_left_out_and_counted(
    evaluate: Run, make_tree: MakeTree, request_for: Callable[..., Request]
) -> None:
    tree = make_tree(("photo",))
    broken = tree.domains["photo"][0].file
    broken.write_bytes(b"no picture")
    request = request_for(tree, methods=("zero-shot",), settings=("closed",))
    summary, text = evaluate(request)
    assert f"warning: left out {broken}" in text
    assert summary["skipped_images"] == {"photo": 1}
    assert "1 images cannot be read" in text


def test_a_domain_without_a_readable_file_ends_the_run(
    evaluate: Run, make_tree: MakeTree, request_for: Callable[..., Request]
) -> None:
    tree = make_tree(("photo",), {"cat": 1, "dog": 1, "car": 1, "bird": 1})
    for entry in tree.domains["photo"]:
        entry.file.write_bytes(b"")
    with pytest.raises(AdaptsvcError, match=r"none of 4 images can be read; the first: .*png"):
        evaluate(request_for(tree))


def test_extra_unknown_images_are_halved_between_adapting_and_testing(
    evaluate: Run, make_tree: MakeTree, request_for: Callable[..., Request]
) -> None:
    tree = make_tree(("photo",), {"cat": 2, "dog": 2, "car": 2, "bird": 2})
    extra: tuple[Entry, ...] = read_extra(tree.root / "photo" / "bird") * 3
    request = request_for(tree, extra=extra, methods=("zero-shot",), settings=("closed", "open"))
    evaluate(request)
    found = Journal(request.out / RESULTS).results
    adapted = {cell.setting: result.adapt_images for cell, result in found.items()}
    assert adapted == {"closed": 3, "open": 3 + 1 + 3}
    assert all(r.answers.label.count(-1) == 1 + 3 for r in found.values())


def test_a_method_that_is_not_there_is_refused_with_the_choice() -> None:
    assert methods(()) == methods(methods(()))
    with pytest.raises(ConfigError, match="names tent, which is no method; choose from zero-shot"):
        methods(("ueo", "tent"))
