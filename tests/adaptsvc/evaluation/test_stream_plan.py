"""Claims about the cells that a request comes to, and what a cell's service is set to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.stream_plan import (
    StreamRequest,
    choose_path,
    choose_streams,
    parse_guard,
    parse_pulls,
    plan,
    settings_of,
)
from adaptsvc.evidence import guard_limits
from adaptsvc.trust.guard import judge, judge_on_labels, judge_window
from tests.adaptsvc.evaluation.conftest import KNOWN, MakeTree
from tests.adaptsvc.evaluation.stream_examples import CELL


@pytest.fixture
def make_request(make_tree: MakeTree, tmp_path: Path) -> Callable[..., StreamRequest]:
    """`make_request(streams=..., ...)`: on two domains."""
    tree = make_tree()

    def make(**changes: Any) -> StreamRequest:
        values: dict[str, Any] = {
            "tree": tree,
            "known": KNOWN,
            "extra": (),
            "streams": ("ordinary", "noise", "domains"),
            "path": ("photo", "sketch", "photo"),
            "guards": (True, False),
            "pulls": (0.0, 0.5),
            "seeds": (0, 1),
            "repeat": 1,
            "out": tmp_path / "out",
        }
        return StreamRequest(**{**values, **changes})

    return make


def test_a_plan_has_each_domain_once_and_the_path_at_every_pull(
    make_request: Callable[..., StreamRequest],
) -> None:
    cells = plan(make_request(), Settings(), "model")
    alone = [cell for cell in cells if cell.stream != "domains"]
    several = [cell for cell in cells if cell.stream == "domains"]
    assert len(alone) == 2 * 2 * 2 * 2  # domains, streams, guards, seeds
    assert {cell.domains for cell in alone} == {("photo",), ("sketch",)}
    assert {cell.pull for cell in alone} == {0.0}
    assert len(several) == 2 * 2 * 2  # guards, pulls, seeds
    assert {cell.domains for cell in several} == {("photo", "sketch", "photo")}
    assert len(set(cells)) == len(cells)


def test_cells_of_other_settings_are_other_cells(
    make_request: Callable[..., StreamRequest],
) -> None:
    def digests(request: StreamRequest, **settings: Any) -> set[str]:
        return {cell.digest for cell in plan(request, Settings(**settings), "model")}

    before = digests(make_request())
    assert digests(make_request(), learn={"threads": 3, "seed": 5}) == before
    assert before.isdisjoint(digests(make_request(), learn={"round_images": 8}))
    assert before.isdisjoint(digests(make_request(), guard={"agreement": 0.5}))
    assert before.isdisjoint(digests(make_request(repeat=2)))
    assert before.isdisjoint(cell.digest for cell in plan(make_request(), Settings(), "other"))


def test_halves_share_no_image_and_know_the_unknown(
    make_request: Callable[..., StreamRequest],
) -> None:
    material, tested = make_request().halves("photo", 0)
    assert {entry.name for entry in material.known} == set(KNOWN)
    assert {entry.name for entry in material.unknown} == {"bird", "fish"}
    assert set(tested).isdisjoint({*material.known, *material.unknown})
    assert len(tested) + len(material.known) + len(material.unknown) == 20


def test_what_a_stream_cannot_be_made_of_is_refused(
    make_request: Callable[..., StreamRequest],
) -> None:
    with pytest.raises(ConfigError, match="at least 2 domains, but gets photo"):
        make_request(path=("photo", "photo"))
    with pytest.raises(ConfigError, match="nothing for the stream all-unknown; name fewer"):
        make_request(streams=("all-unknown",), known=(*KNOWN, "bird", "fish"))


def test_without_a_wish_the_path_comes_back_to_its_first_domain(make_tree: MakeTree) -> None:
    tree = make_tree()
    assert choose_path(tree, "") == ("photo", "sketch", "photo")
    assert choose_path(tree, "sketch, photo,sketch") == ("sketch", "photo", "sketch")
    with pytest.raises(ConfigError, match="clay, which is no domain"):
        choose_path(tree, "photo,clay")


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_guard, "maybe", "--guard is 'maybe'; expected on, off"),
        (parse_guard, "", "--guard is ''"),
        (parse_pulls, "0,2", r"--pull is '0,2'; expected shares in \[0, 1\]"),
        (parse_pulls, "nan", "--pull is 'nan'"),
        (parse_pulls, "much", "--pull is 'much'"),
        (lambda text: choose_streams([text]), "flood", "flood, which is no stream; choose from"),
    ],
)
def test_wrong_options_are_refused(parse: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_a_cell_sets_seed_pull_and_home_and_labels_only_where_labels_come(tmp_path: Path) -> None:
    cell = dataclasses.replace(CELL, seed=7, pull=0.25)
    settings = Settings(learn={"round_images": 16, "window_images": 32})
    found = settings_of(cell, settings, tmp_path)
    assert (found.learn.seed, found.learn.pull, found.home) == (7, 0.25, tmp_path)
    assert (found.guard, found.tune) == (settings.guard, settings.tune)
    flipped = settings_of(dataclasses.replace(cell, stream="flipped-labels"), settings, tmp_path)
    assert flipped.tune.labels_min == 16


def test_with_the_guard_off_nothing_finite_is_refused(tmp_path: Path) -> None:
    off = settings_of(dataclasses.replace(CELL, guard=False), Settings(), tmp_path).guard
    limits, on = guard_limits(off), guard_limits(Settings().guard)
    zero_shot = np.eye(4)[np.arange(400) % 4]
    collapsed = np.eye(4)[np.zeros(400, int)]
    assert not judge(collapsed, zero_shot, on).accepted
    assert judge(collapsed, zero_shot, limits).accepted
    for window in (collapsed, np.full((400, 4), 0.25)):  # one class; no idea
        assert judge_window(window, on)
        assert not judge_window(window, limits)
    labels = np.arange(400) % 4
    worse, right = 9.0 * collapsed, 9.0 * zero_shot
    assert not judge_on_labels(worse, right, labels=labels, limits=on).accepted
    assert judge_on_labels(worse, right, labels=labels, limits=limits).accepted
    assert min(off.refusals, off.freezes) > 10**6
