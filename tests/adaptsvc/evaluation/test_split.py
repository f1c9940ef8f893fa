"""Claims about the halves and the settings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.split import Setting, present_classes, setting, split

NAMES = ["cat"] * 10 + ["dog"] * 7 + ["bird"] * 1


def test_every_class_is_halved_and_the_odd_one_is_tested() -> None:
    halves = split(NAMES, seed=0)
    assert Counter(NAMES[i] for i in halves.adapt) == {"cat": 5, "dog": 3}
    assert Counter(NAMES[i] for i in halves.test) == {"cat": 5, "dog": 4, "bird": 1}


def test_the_halves_are_disjoint_and_leave_nothing_out() -> None:
    halves = split(NAMES, seed=3)
    assert sorted([*halves.adapt, *halves.test]) == list(range(len(NAMES)))


def test_a_seed_is_repeatable_and_another_differs() -> None:
    first, again, other = (split(NAMES, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.adapt, again.adapt)
    assert not np.array_equal(first.adapt, other.adapt)


@pytest.mark.parametrize(
    ("name", "present"),
    [
        ("closed", {"a", "b", "c"}),
        ("partial", {"a", "b"}),
        ("open", {"a", "b", "c", "x", "y"}),
        ("open-partial", {"a", "b", "x", "y"}),
    ],
)
def test_each_setting_has_its_classes(name: Setting, present: set[str]) -> None:
    assert set(present_classes(name, ("a", "b", "c"), ("x", "y"))) == present


def test_an_unknown_setting_is_refused_with_the_choice() -> None:
    assert setting("open-partial") == "open-partial"
    with pytest.raises(
        ConfigError, match="'ajar'; choose from closed, partial, open, open-partial"
    ):
        setting("ajar")
