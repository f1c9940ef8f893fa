"""Claims about the options and the cells they come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.data import Tree
from adaptsvc.evaluation.plan import Request, comma_list, parse_seeds, plan
from tests.adaptsvc.evaluation.conftest import KNOWN, OTHERS, MakeTree


@pytest.fixture
def tree(make_tree: MakeTree) -> Tree:
    return make_tree()


def test_a_cell_is_a_domain_a_setting_a_method_and_a_seed(
    tree: Tree, request_for: Callable[..., Request]
) -> None:
    cells = plan(request_for(tree, seeds=(0, 1, 2)), Settings(), "fingerprint")
    assert len(set(cells)) == len(cells) == 2 * 4 * 2 * 3
    assert [cell.domain for cell in cells] == sorted(cell.domain for cell in cells)


def digest(request: Request, model: str = "fingerprint", **settings: Any) -> str:
    return plan(request, Settings(**settings), model)[0].digest


@pytest.mark.parametrize(
    "settings",
    [
        {"learn": {"passes": 3}},
        {"learn": {"learning_rate": 0.5}},
        {"prompt": "a sketch of a {}."},
        {"ood": {"score": "msp"}},
    ],
)
def test_settings_that_change_figures_change_the_digest(
    tree: Tree, request_for: Callable[..., Request], settings: dict[str, Any]
) -> None:
    assert digest(request_for(tree), **settings) != digest(request_for(tree))


def test_the_request_and_the_model_change_the_digest(
    tree: Tree, request_for: Callable[..., Request]
) -> None:
    same = request_for(tree)
    others = [request_for(tree, known=KNOWN[::-1]), request_for(tree, guard=True)]
    found = {digest(same), digest(same, "another"), *map(digest, others)}
    assert len(found) == 4


def test_threads_seeds_and_methods_leave_the_digest_as_it_is(
    tree: Tree, request_for: Callable[..., Request]
) -> None:
    other = request_for(tree, seeds=(7,), methods=("ueo",))
    assert digest(other, learn={"threads": 1, "seed": 3}) == digest(request_for(tree))


def test_an_open_setting_without_unknown_images_is_refused(
    make_tree: MakeTree, request_for: Callable[..., Request]
) -> None:
    tree = make_tree(("photo",), dict.fromkeys(KNOWN, 2))
    with pytest.raises(ConfigError, match="nothing is unknown in setting open; name fewer"):
        request_for(tree)
    assert request_for(tree, settings=("closed", "partial"))


def test_extra_unknown_images_are_in_every_domain(
    make_tree: MakeTree, request_for: Callable[..., Request]
) -> None:
    tree = make_tree(("photo", "sketch"), dict.fromkeys((*KNOWN, *OTHERS), 1))
    extra = tree.domains["photo"][:1]
    request = request_for(tree, extra=extra)
    assert all(request.entries(domain)[-1:] == extra for domain in request.domains)


@pytest.mark.parametrize("text", ["", "one", "-1", "1.5", "1,b"])
def test_seeds_that_are_no_whole_numbers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--seeds is .*; expected seeds like 0,1,2"):
        parse_seeds(text)


def test_a_comma_list_may_have_blanks() -> None:
    assert comma_list(" zero-shot , ueo,, ueo") == ("zero-shot", "ueo")
    assert comma_list("") == ()
