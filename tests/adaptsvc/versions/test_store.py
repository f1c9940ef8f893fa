"""The store: what is published is read back bit by bit, or refused; never something in between."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptsvc.errors import (
    DiskFullError,
    VersionCorruptError,
    VersionNotFoundError,
)
from adaptsvc.versions.lease import FileLease
from adaptsvc.versions.manifest import Draft
from adaptsvc.versions.refusals import KEPT as REFUSED_KEPT
from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.versions.contract_store import (
    DELTA,
    StoreBench,
    StoreContract,
    bits,
    head_bits,
)
from tests.adaptsvc.versions.examples import draft, exporter, head
from tests.adaptsvc.versions.stores import START, changed

VERSION_FILES = ("delta.safetensors", "head.safetensors", "manifest.json")


@pytest.fixture
def store_bench(tmp_path: Path) -> StoreBench:
    root = VersionStore(tmp_path / "contract").root
    return StoreBench(
        open=lambda: VersionStore(root),
        lease=lambda: FileLease(root / "WORKER"),
        fenced=lambda lease: VersionStore(root, fence=lease.check),
        lose=lambda: (root / ".WORKER.lock").unlink(),
        age=lambda digest: os.utime(root / "base" / digest, (0, 0)),
        sealed=lambda seal, _root=root: VersionStore(root, seal=seal),
    )


class TestVersionStore(StoreContract):
    """All of the contract."""


def version_file(store: VersionStore, name: str) -> Path:
    return store.root / "versions" / "000000" / name


def test_a_published_version_is_read_back_bit_by_bit(store: VersionStore) -> None:
    manifest = store.publish(draft(), DELTA, head())
    found = VersionStore(store.root).load(0)
    assert found.manifest == manifest == store.manifest(0)
    assert bits(found.delta) == bits(DELTA)
    assert head_bits(found.head) == head_bits(head())


def test_the_manifest_says_when_and_of_which_draft_it_was_made(store: VersionStore) -> None:
    manifest = store.publish(draft(seed=5), DELTA, head())
    assert (manifest.id, manifest.created_at) == (0, START)
    assert Draft(**{name: getattr(manifest, name) for name in Draft.model_fields}) == draft(seed=5)
    assert set(manifest.files) == {"delta.safetensors", "head.safetensors"}


def test_ids_rise_by_one_and_are_not_reused_below_the_newest(store: VersionStore) -> None:
    assert store.ids() == []
    for expected in range(3):
        assert store.publish(draft(), DELTA, head()).id == expected
    shutil.rmtree(store.root / "versions" / "000001")
    assert store.publish(draft(), DELTA, head()).id == 3
    assert store.ids() == [0, 2, 3]


@pytest.mark.parametrize("version", [1, 77, -1])
def test_a_version_that_is_not_there_is_named(published: VersionStore, version: int) -> None:
    with pytest.raises(VersionNotFoundError, match=f"no version {version}; there are") as raised:
        published.load(version)
    assert raised.value.version == version


@pytest.mark.parametrize("name", VERSION_FILES)
def test_a_missing_file_is_refused_by_its_name(published: VersionStore, name: str) -> None:
    path = version_file(published, name)
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        with pytest.raises(VersionCorruptError, match=f"{name} of version 0 is missing") as raised:
            published.load(0)
    finally:
        aside.rename(path)
    assert raised.value.version == 0


@pytest.mark.parametrize("name", VERSION_FILES)
def test_every_cut_of_every_file_is_refused(published: VersionStore, name: str) -> None:
    data = version_file(published, name).read_bytes()
    for length in {0, 1, 8, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}:
        with (
            changed(version_file(published, name), data[:length]),
            pytest.raises(VersionCorruptError),
        ):
            published.load(0)


@pytest.mark.parametrize("name", VERSION_FILES)
def test_every_flipped_byte_of_every_file_is_refused(published: VersionStore, name: str) -> None:
    path = version_file(published, name)
    data = path.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x01
        with changed(path, bytes(flipped)), pytest.raises(VersionCorruptError) as raised:
            published.load(0)
        assert raised.value.version == 0


@settings(deadline=None)
@given(name=st.sampled_from(VERSION_FILES[:2]), place=st.floats(0, 1), mask=st.integers(1, 255))
def test_any_other_byte_in_a_tensor_file_is_refused(
    published: VersionStore, name: str, place: float, mask: int
) -> None:
    data = bytearray(version_file(published, name).read_bytes())
    data[int(place * (len(data) - 1))] ^= mask
    with (
        changed(version_file(published, name), bytes(data)),
        pytest.raises(VersionCorruptError, match=f"{name} of version 0 was altered or cut"),
    ):
        published.load(0)


def test_a_manifest_that_is_not_text_is_refused(published: VersionStore) -> None:
    with (
        changed(version_file(published, "manifest.json"), b"\xff\xfe"),
        pytest.raises(VersionCorruptError, match="manifest of version 0 is not text"),
    ):
        published.load(0)


@pytest.mark.parametrize("name", VERSION_FILES)
def test_a_file_that_grew_is_refused(published: VersionStore, name: str) -> None:
    path = version_file(published, name)
    with changed(path, path.read_bytes() + b"{}"), pytest.raises(VersionCorruptError):
        published.load(0)


def test_the_files_of_one_version_in_the_folder_of_another_are_refused(store: VersionStore) -> None:
    store.publish(draft(), DELTA, head())
    shutil.copytree(store.root / "versions" / "000000", store.root / "versions" / "000007")
    with pytest.raises(VersionCorruptError, match="folder of version 7 is that of version 0"):
        store.load(7)


def test_the_delta_of_another_version_is_refused(store: VersionStore) -> None:
    store.publish(draft(), DELTA, head())
    store.publish(draft(), {"norm.bias": DELTA["norm.bias"]}, head())
    folders = [
        store.root / "versions" / name / "delta.safetensors" for name in ("000000", "000001")
    ]
    shutil.copy(*folders)
    with pytest.raises(VersionCorruptError, match=r"delta.safetensors of version 1 was altered"):
        store.load(1)


@pytest.mark.parametrize("fails_at", range(1, 13))
def test_a_publication_that_fails_at_any_sync_is_there_completely_or_not_at_all(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    calls = itertools.count(1)

    def disk_full(descriptor: int) -> None:
        if next(calls) >= fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk_full)
        with suppress(DiskFullError):  # the last sync may not be reached
            store.publish(draft(), DELTA, head())
    assert [p.name for p in (store.root / "versions").iterdir()] == [
        f"{i:06d}" for i in store.ids()
    ]
    for version in store.ids():
        assert bits(store.load(version).delta) == bits(DELTA)
    assert store.publish(draft(), DELTA, head()).id == len(store.ids()) - 1


def test_a_full_disk_leaves_no_folder(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    for write in (
        lambda: store.publish(draft(), DELTA, head()),
        lambda: store.add_base(exporter()),
    ):
        with pytest.raises(DiskFullError, match="no room for"):
            write()
    assert not list((store.root / "versions").iterdir())
    assert not list((store.root / "base").iterdir())


def test_what_a_killed_writer_left_is_no_version(store: VersionStore) -> None:
    (store.root / "versions" / ".staging-abc" / "content").mkdir(parents=True)
    assert store.ids() == []
    assert store.publish(draft(), DELTA, head()).id == 0


def test_a_rename_that_fails_leaves_no_folder(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", refuse)
    for write in (lambda: store.publish(draft(), {}, head()), lambda: store.add_base(exporter())):
        with pytest.raises(OSError, match="cross-device"):
            write()
    assert not [*(store.root / "versions").iterdir(), *(store.root / "base").iterdir()]


def test_a_writer_that_is_overtaken_takes_the_next_id(store: VersionStore) -> None:
    """The clock is read between choosing an id and the rename: there another writer is faster."""
    faster = iter([0, 1])

    def clock() -> datetime:
        if next(faster, None) is not None:
            store.publish(draft(seed=9), DELTA, head())
        return START

    overtaken = VersionStore(store.root, clock=clock).publish(draft(seed=4), DELTA, head())
    assert (overtaken.id, store.load(2).manifest.seed) == (2, 4)
    assert [store.load(version).manifest.seed for version in (0, 1)] == [9, 9]


def test_a_refused_candidate_is_kept_with_its_reasons_and_is_no_version(
    store: VersionStore,
) -> None:
    folder = store.refuse(draft(), DELTA, head(), ["not_finite", "marginal_collapsed"])
    record = json.loads((folder / "reason.json").read_text())
    assert record["reasons"] == ["not_finite", "marginal_collapsed"]
    assert datetime.fromisoformat(record["at"]) == START
    assert Draft.model_validate_json(json.dumps(record["draft"])) == draft()
    assert {path.name for path in folder.iterdir()} == {"reason.json", *VERSION_FILES[:2]}
    assert (store.refused(), store.ids()) == ([folder], [])


def test_the_oldest_refused_candidates_go_when_there_are_too_many(store: VersionStore) -> None:
    folders = [store.refuse(draft(), {}, head(), ["not_finite"]) for _ in range(REFUSED_KEPT + 3)]
    assert store.refused() == folders[3:]


def test_what_is_here_already_is_not_put_in_place_again(
    store: VersionStore, tmp_path: Path
) -> None:
    """Another process of the machine may be reading it."""
    base = store.add_base(exporter())
    version = store.publish(draft(base=base.digest), {}, head()).id
    files = store.files(version)
    other = VersionStore(tmp_path / "other")
    other.add_base(exporter())
    other.take(version, files)
    folder = tmp_path / "other" / "versions" / f"{version:06d}"
    before = folder.stat().st_ino
    other.take(version, files)
    assert folder.stat().st_ino == before
