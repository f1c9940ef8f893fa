"""Claims about what results come to, by hand."""

from __future__ import annotations

import dataclasses

import pytest

from adaptsvc.evaluation.stream_summary import accuracies, forgetting, summarise_streams
from tests.adaptsvc.evaluation.stream_examples import (
    CELL,
    PATH,
    domains_result,
    figures,
    moment,
    result,
)


def test_the_worst_is_of_anything_that_ever_served() -> None:
    (row,) = summarise_streams([result()])
    assert (row.zero_shot.mean, row.final.mean, row.worst) == (0.5, 0.75, 0.4)
    (row,) = summarise_streams([result(moments=(moment(0.75),))])
    assert row.worst == 0.5


@pytest.mark.parametrize(
    ("final", "margin", "holds"), [(0.5, 0.01, True), (0.49, 0.0, True), (0.48, -0.01, False)]
)
def test_what_must_hold_is_zero_shot_less_a_point(final: float, margin: float, holds: bool) -> None:
    (row,) = summarise_streams([result(after_parts=(figures(photo=final),))])
    assert row.margin == pytest.approx(margin)
    assert row.holds is holds


def test_the_margin_is_of_the_worst_seed() -> None:
    other = result(dataclasses.replace(CELL, seed=1), after_parts=(figures(photo=0.25),), returns=2)
    (row,) = summarise_streams([result(), other])
    assert (row.final.mean, row.final.n) == (0.5, 2)
    assert row.margin == pytest.approx(-0.24)
    assert row.returns == 2


def test_rounds_and_reasons_are_counted_and_a_failure_is_one_reason() -> None:
    refused = {"outcome": "refused", "reasons": ("class_swallowed", "marginal_collapsed")}
    moments = (
        moment(0.5),
        moment(0.5, **refused),
        moment(0.5, outcome="refused", reasons=("class_swallowed",)),
        moment(0.5, outcome="failed", reasons=("got NaN in step 3",)),
    )
    (row,) = summarise_streams([result(moments=moments)])
    assert row.rounds == {"promoted": 1, "refused": 2, "failed": 1}
    assert row.reasons == {"class_swallowed": 2, "marginal_collapsed": 1, "failed": 1}


def test_services_of_different_guard_pull_or_stream_are_different_rows() -> None:
    cells = [CELL, dataclasses.replace(CELL, guard=False), dataclasses.replace(CELL, pull=0.5)]
    cells.append(dataclasses.replace(CELL, stream="noise"))
    assert len(summarise_streams([result(cell) for cell in cells])) == 4


def test_without_unknown_images_there_is_no_auroc() -> None:
    bare = {"photo": {"accuracy": 0.5, "ece": 0.1}}
    (row,) = summarise_streams([result(zero_shot=bare, moments=(), after_parts=(bare,))])
    assert row.auroc is None
    assert row.zero_shot_auroc is None


def test_forgetting_is_what_earlier_domains_lose_by_the_end() -> None:
    parts = [{"photo": 0.8, "sketch": 0.4}, {"photo": 0.7, "sketch": 0.6}]
    assert forgetting(["photo", "sketch"], parts) == pytest.approx(0.1)
    assert forgetting(["photo"], parts[:1]) is None


def test_a_domain_that_comes_again_counts_from_its_last_time() -> None:
    (row,) = summarise_streams([domains_result()])
    # photo is learned last; sketch 0.6 to 0.3, clay 0.5 to 0.4.
    assert row.forgetting is not None
    assert row.forgetting.mean == pytest.approx((0.3 + 0.1) / 2)
    middle = domains_result(path=("photo", "sketch", "photo", "clay"))
    (row,) = summarise_streams([middle])
    # photo after its second time 0.6 to 0.9, sketch 0.6 to 0.3.
    assert row.forgetting is not None
    assert row.forgetting.mean == pytest.approx((-0.3 + 0.3) / 2)


def test_a_stream_of_domains_is_averaged_over_each_domain_once() -> None:
    (row,) = summarise_streams([domains_result()])
    assert row.domains == PATH
    assert row.zero_shot.mean == pytest.approx(0.5)
    assert row.final.mean == pytest.approx((0.9 + 0.3 + 0.4) / 3)
    assert row.worst == pytest.approx((0.8 + 0.4 + 0.2) / 3)
    assert row.after_parts[1] == {"photo": 0.7, "sketch": 0.6, "clay": 0.2}
    assert accuracies(domains_result()).shape == (5,)
