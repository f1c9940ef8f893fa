"""Claims about working one item ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from adaptsvc.adapt.ahead import one_ahead


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        made.set()
        yield 2

    ahead = one_ahead(items())
    assert next(ahead) == 1
    assert made.wait(5), "2 is made before it is asked for"
    assert list(ahead) == [2]


def test_no_more_than_one_item_is_made_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    ahead = one_ahead(items())
    assert next(ahead) == 0
    assert next(ahead) == 1
    assert len(made) <= 3


def test_what_making_an_item_raises_comes_where_the_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no second one")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="no second one"):
        next(ahead)


def test_closing_it_early_leaves_no_thread() -> None:
    ahead = one_ahead(iter(range(5)))
    next(ahead)
    ahead.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_items_are_made_on_one_core_and_used_on_all() -> None:
    def items() -> Iterator[int]:
        while True:
            yield torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with closing(one_ahead(items())) as ahead:
            assert next(ahead) == 1
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
