"""Claims about what is said to differ between two versions."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from adaptsvc.types import Tensors
from adaptsvc.versions.delta import Head
from adaptsvc.versions.difference import change, difference
from adaptsvc.versions.manifest import Manifest
from adaptsvc.versions.store import Version
from tests.adaptsvc.versions.examples import draft

EYE = np.eye(3, 4, dtype=np.float32)


def version(
    number: int, delta: Tensors, embeddings: np.ndarray = EYE, **changes: object
) -> Version:
    at = datetime(2026, 5, 4, tzinfo=UTC)
    manifest = Manifest.seal(draft(**changes), id=number, created_at=at, files={})
    return Version(manifest, delta, Head(embeddings, EYE, EYE))


def test_a_version_does_not_differ_from_itself() -> None:
    one = version(1, {"norm.bias": np.ones(3, np.float32)})
    found = difference(one, one)
    assert (found.fields, found.metrics) == ({}, {})
    assert set(found.class_similarity.values()) == {1.0}
    assert found.parameters["norm.bias"].relative == 0


def test_what_manifests_and_figures_say_otherwise_is_told() -> None:
    before = version(1, {}, method="ueo", metrics={"ece": 0.2, "only_before": 1.0})
    after = version(2, {}, method="core", metrics={"ece": 0.1, "only_after": 2.0})
    found = difference(before, after)
    assert set(found.fields) == {"method"}
    assert (found.metrics["ece"].before, found.metrics["ece"].after) == (0.2, 0.1)
    assert found.metrics["only_before"].after is None
    assert found.metrics["only_after"].before is None


def test_classes_are_compared_by_name_and_not_by_place() -> None:
    before = version(1, {}, classes=("cat", "dog", "cow"))
    after = version(2, {}, EYE[[1, 0, 2]], classes=("dog", "cat", "pig"))
    found = difference(before, after)
    assert (found.classes_removed, found.classes_added) == (("cow",), ("pig",))
    assert found.class_similarity == {"dog": 1.0, "cat": 1.0}


def test_a_parameter_is_measured_where_both_change_it_and_named_where_one_does() -> None:
    before = version(1, {"a": np.array([3, 4], np.float32), "b": np.ones(1, np.float32)})
    after = version(2, {"a": np.array([3, 5], np.float32), "c": np.ones(1, np.float32)})
    found = difference(before, after)
    assert found.parameters["a"].relative == pytest.approx(0.2)
    assert (found.parameters_removed, found.parameters_added) == (("b",), ("c",))


def test_what_was_nothing_before_is_far_away_and_finite() -> None:
    assert change(np.zeros(0, np.float32), np.zeros(0, np.float32)).largest == 0
    found = change(np.zeros(2, np.float32), np.ones(2, np.float32))
    assert (found.largest, np.isfinite(found.relative)) == (1.0, True)
