"""Claims about a run on streams: what it leaves, how it goes on, and that cells do not touch each other."""

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
from adaptsvc.evaluation.stream_journal import StreamJournal, StreamResult
from adaptsvc.evaluation.stream_plan import StreamRequest
from adaptsvc.evaluation.stream_run import REPORT, RESULTS, SUMMARY, run_streams
from tests.adaptsvc.evaluation.conftest import KNOWN, MakeTree
from tests.adaptsvc.evaluation.examples import StopAfter

LEARN = {"round_images": 4, "window_images": 8, "batch_images": 4}
TUNE = {"passes": 1.0}
Run = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def run(eval_settings: Callable[..., Settings], one_thread: None) -> Run:
    """`run(request, stop, learn=..., ...)`: the summary, and what was printed."""

    def run_it(
        request: StreamRequest, stop: threading.Event | None = None, **changes: Any
    ) -> tuple[dict[str, Any], str]:
        text = io.StringIO()
        learn = {**LEARN, **changes.pop("learn", {})}
        settings = eval_settings(learn=learn, tune=TUNE, **changes)
        summary = run_streams(
            request,
            settings,
            console=Console(file=text, width=100),
            stop=stop or threading.Event(),
        )
        return summary, text.getvalue()

    return run_it


@pytest.fixture
def make_request(make_tree: MakeTree, tmp_path: Path) -> Callable[..., StreamRequest]:
    """`make_request(streams=..., ...)`: two domains of six images to send each, one seed, guard on."""
    tree = make_tree()

    def make(**changes: Any) -> StreamRequest:
        values: dict[str, Any] = {
            "tree": tree,
            "known": KNOWN,
            "extra": (),
            "streams": ("ordinary",),
            "path": ("photo",),
            "guards": (True,),
            "pulls": (0.0,),
            "seeds": (0,),
            "repeat": 2,
            "out": tmp_path / "out",
        }
        return StreamRequest(**{**values, **changes})

    return make


def results(request: StreamRequest) -> list[StreamResult]:
    return list(StreamJournal(request.out / RESULTS).results.values())


def without_time(each: list[StreamResult]) -> list[dict[str, Any]]:
    return [result.model_dump(exclude={"seconds"}) for result in each]


def test_a_run_leaves_results_summary_and_picture(
    run: Run, make_request: Callable[..., StreamRequest]
) -> None:
    request = make_request(streams=("one-class", "noise"))
    summary, text = run(request)
    assert json.loads((request.out / SUMMARY).read_text()) == summary
    assert (request.out / REPORT).read_bytes().startswith(b"\x89PNG")
    assert summary["cells"] == len(results(request)) == 2
    assert "one-class, photo" in text
    for result in results(request):
        assert len(result.moments) == 3
        assert (result.sent, result.dead_letters) == ((12,), 0)
        assert set(result.zero_shot["photo"]) >= {"accuracy", "ece", "auroc"}
    assert not list((request.out.parent / "home").glob("cell-*"))


def test_labels_start_rounds_of_their_own_and_wrong_ones_are_taken_in(
    run: Run, make_request: Callable[..., StreamRequest]
) -> None:
    request = make_request(streams=("flipped-labels",), guards=(False,))
    run(request)
    (result,) = results(request)
    assert {moment.method for moment in result.moments} == {"core", "ueo"}
    assert result.dead_letters == 0


def test_without_the_guard_a_candidate_is_promoted_that_it_would_refuse(
    run: Run, make_request: Callable[..., StreamRequest]
) -> None:
    request = make_request(guards=(True, False))
    # Large steps, and all of the window must keep its class.
    guard = {"agreement": 1.0, "confident_share": 1.0}
    run(request, guard=guard, learn={"learning_rate": 1.0, "passes": 4.0, "round_images": 8})
    guarded, free = (result.moments[0] for result in results(request))
    assert guarded.outcome == "refused"
    assert "disagrees_with_zero_shot" in guarded.reasons
    assert (guarded.version, free.version) == (0, 1)
    assert (free.outcome, free.reasons) == ("promoted", ())
    assert {m.outcome for m in results(request)[1].moments} == {"promoted"}


def test_a_cell_comes_out_the_same_whatever_ran_before_it(
    run: Run, make_request: Callable[..., StreamRequest], tmp_path: Path
) -> None:
    after_others = make_request(streams=("flipped-labels", "ordinary"))
    run(after_others)
    alone = make_request(out=tmp_path / "alone")
    run(alone)
    (first,) = without_time(results(alone))
    assert first in without_time(results(after_others))


def test_a_stream_of_domains_is_measured_on_each_after_each_part(
    run: Run, make_request: Callable[..., StreamRequest]
) -> None:
    path = ("photo", "sketch", "photo")
    request = make_request(streams=("domains",), path=path, pulls=(0.0, 1.0), repeat=1)
    summary, text = run(request)
    learned, pulled = results(request)
    assert learned.sent == (6, 12, 18)
    assert [set(each) for each in learned.after_parts] == [{"photo", "sketch"}] * 3
    assert {moment.part for moment in learned.moments} == {0, 1, 2}
    # A pull of 1 goes all the way back to zero-shot, so nothing is forgotten.
    for part in pulled.after_parts:
        for domain, figures in part.items():
            assert figures["accuracy"] == pulled.zero_shot[domain]["accuracy"]
    assert summary["results"][1]["forgetting"]["mean"] == pytest.approx(0)
    assert "forgetting" in text


def test_an_interrupted_run_goes_on_to_the_same_results(
    run: Run, make_request: Callable[..., StreamRequest]
) -> None:
    request = make_request(streams=("ordinary", "noise", "class-order"))
    nothing, text = run(request, StopAfter(35))
    done = len(results(request))
    assert (nothing, 0 < done < 3) == ({}, True)
    assert f"interrupted: {done} of 3 cells" in text
    resumed, text = run(request)
    assert f"{done} of 3 cells were measured before" in text
    (request.out / RESULTS).unlink()
    assert run(request)[0] == resumed
