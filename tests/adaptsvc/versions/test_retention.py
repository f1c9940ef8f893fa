"""Claims about pruning: what stays, and that what must not go never does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptsvc.versions.history import Desk
from adaptsvc.versions.pins import FilePins
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.retention import make_plan, plan, prune
from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.versions.contract_store import DELTA
from tests.adaptsvc.versions.examples import draft, exporter, head


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Ten versions in a line, of which the last one serves."""
    store = VersionStore(tmp_path / "store")
    for version in range(10):
        store.publish(draft(parent=version - 1 if version else None), DELTA, head())
    pointer = FilePointer(store.root / "CURRENT")
    pointer.force(9)
    return Desk(store, pointer, FilePins(store.root / "PINS"))


def pruned(desk: Desk, keep: int) -> list[int]:
    prune(desk.store, desk.pointer, desk.pins, keep)
    return desk.store.ids()


def test_the_newest_stay_and_what_they_go_back_to(desk: Desk) -> None:
    assert pruned(desk, 3) == [0, 6, 7, 8, 9]
    assert desk.store.pruned() == [1, 2, 3, 4, 5]


def test_what_serves_stays_with_its_parent_however_old(desk: Desk) -> None:
    desk.pointer.force(3)
    assert pruned(desk, 1) == [0, 2, 3, 8, 9]


def test_a_pinned_version_stays_until_it_is_unpinned(desk: Desk) -> None:
    desk.pin(5)
    assert pruned(desk, 1) == [0, 4, 5, 8, 9]
    desk.unpin(5)
    assert pruned(desk, 1) == [0, 8, 9]


def test_the_zero_shot_version_of_a_later_line_stays_though_those_between_went(desk: Desk) -> None:
    desk.store.publish(draft(parent=None), DELTA, head())
    for parent in range(10, 20):
        desk.store.publish(draft(parent=parent), DELTA, head())
    desk.pointer.force(20)
    for _ in range(2):
        assert pruned(desk, 2) == [0, 10, 18, 19, 20]


def test_a_version_that_cannot_be_read_is_left_for_a_person(desk: Desk) -> None:
    (desk.store.root / "versions" / "000002" / "manifest.json").write_text("{")
    assert pruned(desk, 1) == [0, 2, 3, 8, 9]  # where its line of descent is lost, 3 is a first one


def test_pruning_twice_removes_nothing_more(desk: Desk) -> None:
    pruned(desk, 2)
    assert make_plan(desk.store, desk.pointer, desk.pins, 2).removed == ()


def test_bases_go_with_the_last_version_that_needs_them(desk: Desk, tmp_path: Path) -> None:
    base = desk.store.add_base(exporter("tuned"))
    os.utime(base.directory, (0, 0))
    desk.store.publish(draft(parent=9, base=base.digest), DELTA, head())
    found = prune(desk.store, desk.pointer, desk.pins, 1)
    assert (found.bases, base.directory.exists()) == ((), True)
    desk.store.publish(draft(parent=9), DELTA, head())
    found = prune(desk.store, desk.pointer, desk.pins, 1)
    assert (found.bases, base.directory.exists()) == ((base.digest,), False)


class Meddling(FilePins):
    """A person does something between the plan and the deletions."""

    def __init__(self, path: Path, desk: Desk, version: int, what: str) -> None:
        super().__init__(path)
        self.desk, self.version, self.what = desk, version, what

    def read(self) -> frozenset[int]:
        found = super().read()
        if self.what == "pin":
            self.what = ""
            self.desk.pins.add(self.version)
        elif self.what == "activate":
            self.what = ""
            self.desk.pointer.force(self.version)
        return found


@pytest.mark.parametrize("what", ["pin", "activate"])
def test_what_a_person_pins_or_activates_meanwhile_stays(desk: Desk, what: str) -> None:
    pins = Meddling(desk.store.root / "PINS", desk, 4, what)
    prune(desk.store, desk.pointer, pins, 1)
    assert desk.store.load(4).manifest.id == 4
    assert desk.store.ids() == [0, 4, 8, 9]


@given(data=st.data())
def test_whatever_the_history_what_serves_is_pinned_or_gone_back_to_stays(
    data: st.DataObject,
) -> None:
    count = data.draw(st.integers(1, 30))
    parents: dict[int, int | None] = {0: None}
    for version in range(1, count):
        parents[version] = data.draw(st.one_of(st.none(), st.integers(0, version - 1)))
    keep, serving = data.draw(st.integers(1, 30)), data.draw(st.integers(0, count - 1))
    pinned = data.draw(st.sets(st.integers(0, count - 1)))
    found = plan(parents, parents, keep=keep, serving=serving, pinned=pinned)
    kept = set(found.kept)
    assert kept | set(found.removed) == set(parents)
    assert {0, serving, *pinned, *sorted(parents)[-keep:]} <= kept
    for version in {serving, *pinned, *sorted(parents)[-keep:]}:
        parent = root = parents[version]
        assert parent is None or parent in kept
        while root is not None and parents[root] is not None:
            root = parents[root]
        assert root is None or root in kept
