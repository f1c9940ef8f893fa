"""The draw of known classes: by its seed alone, and another one with every seed."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.data import Entry, Tree
from benchmarks.class_choices import request

CLASSES = "ant", "bee", "cat", "dog", "eel", "fox"
TREE = Tree(Path("photos"), {"here": tuple(Entry(Path(f"{n}.jpg"), n) for n in CLASSES)})


def known(seed: int, size: int = 3) -> tuple[str, ...]:
    """The classes a seed draws."""
    options = Namespace(size=size, method="ueo", no_guard=False, out=Path("out"))
    return request(TREE, options, seed).known


def test_a_seed_always_draws_the_same_classes_and_another_one_others() -> None:
    draws = [known(seed) for seed in range(20)]
    assert draws == [known(seed) for seed in range(20)]
    assert len(set(map(frozenset, draws))) > 5
    assert set().union(*draws) == set(CLASSES)


def test_a_seed_has_a_folder_and_the_guard_judges_unless_told_not_to() -> None:
    options = Namespace(size=3, method="ueo", no_guard=False, out=Path("out"))
    asked = request(TREE, options, 4)
    assert (asked.out, asked.seeds, asked.guard) == (Path("out/seed-4"), (4,), True)
    options.no_guard = True
    assert not request(TREE, options, 4).guard


@pytest.mark.parametrize("size", [1, 6, 7])
def test_some_classes_must_be_known_and_some_not(size: int) -> None:
    with pytest.raises(ConfigError, match=f"--size is {size}; expected 2 to 5 of the 6 classes"):
        known(0, size=size)
