"""The bases in the store: found by digest and tower, verified, kept while a version needs them."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from adaptsvc.errors import (
    ForeignBaseError,
    VersionCorruptError,
)
from adaptsvc.types import Tensors
from adaptsvc.versions.base import BASE_FILES, TUNED, Base
from adaptsvc.versions.delta import to_bytes
from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.versions.contract_store import (
    DELTA,
    bits,
)
from tests.adaptsvc.versions.examples import HEX, PREPROCESS, draft, exporter, head
from tests.adaptsvc.versions.stores import changed


def test_a_base_is_stored_under_its_digest_and_described(store: VersionStore) -> None:
    base = store.add_base(exporter())
    assert base.directory == store.root / "base" / base.digest
    assert {path.name for path in base.directory.iterdir()} == set(BASE_FILES)
    assert base.graph.read_bytes() == b"onnx graph"
    assert (base.fingerprint, base.swap) == ("tower", "feed")
    assert base.swappable == {"norm.weight", "norm.bias"}
    assert base.preprocess == PREPROCESS
    assert VersionStore(store.root).base(base.digest) == base


def test_the_same_base_twice_is_stored_once(store: VersionStore) -> None:
    assert store.add_base(exporter()) == store.add_base(exporter())
    assert len(list((store.root / "base").iterdir())) == 1


def test_the_same_base_from_writers_at_once_is_stored_once(store: VersionStore) -> None:
    both_exported, found = threading.Barrier(2), list[str]()

    def export(directory: Path) -> None:
        exporter()(directory)
        both_exported.wait()

    threads = [
        threading.Thread(target=lambda: found.append(store.add_base(export).digest)) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [path.name for path in (store.root / "base").iterdir()] * 2


def test_an_export_that_fails_leaves_nothing(store: VersionStore) -> None:
    def export(directory: Path) -> None:
        exporter()(directory)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.add_base(export)
    assert list((store.root / "base").iterdir()) == []


def test_a_base_is_found_by_the_tower_it_was_made_from(store: VersionStore) -> None:
    bases = {name: store.add_base(exporter(name, name.encode())) for name in ("one", "two")}
    assert {name: store.find_base(name) for name in bases} == bases
    assert store.find_base("three") is None


def test_a_base_that_is_not_here_is_refused_saying_how_to_get_it(published: VersionStore) -> None:
    with pytest.raises(ForeignBaseError, match=r"0123456789ab is not in .*run 'adaptsvc export'"):
        published.base(HEX)


@pytest.mark.parametrize("name", BASE_FILES)
def test_every_flipped_byte_of_a_base_is_refused(published: VersionStore, name: str) -> None:
    (directory,) = (published.root / "base").iterdir()
    data = (directory / name).read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x01
        with (
            changed(directory / name, bytes(flipped)),
            pytest.raises(VersionCorruptError, match="was altered: its files now give"),
        ):
            VersionStore(published.root).base(directory.name)


@pytest.mark.parametrize("name", BASE_FILES)
def test_a_base_without_one_of_its_files_is_refused(store: VersionStore, name: str) -> None:
    base = store.add_base(exporter())
    (base.directory / name).unlink()
    with pytest.raises(VersionCorruptError, match=f"delete {base.directory} and run"):
        VersionStore(store.root).base(base.digest)


@pytest.mark.parametrize("content", [b"", b"{}", b"{", b'{"Fingerprint": "tower"}', b"\xff"])
def test_a_base_with_a_broken_description_is_passed_over(
    store: VersionStore, content: bytes
) -> None:
    broken = store.add_base(exporter("broken", b"other graph"))
    sound = store.add_base(exporter())
    (broken.directory / "preprocess.json").write_bytes(content)
    fresh = VersionStore(store.root)
    assert fresh.find_base("broken") is None
    assert fresh.find_base("tower") == sound


def tuned_base(store: VersionStore, weights: Tensors = DELTA) -> Base:
    """The example base with weights that are not the CLIP's own."""

    def export(directory: Path) -> None:
        exporter("tuned")(directory)
        (directory / TUNED).write_bytes(to_bytes(weights))

    return store.add_base(export)


def test_a_tuned_base_gives_back_its_weights_bit_by_bit_and_another_has_none(
    store: VersionStore,
) -> None:
    base = tuned_base(store)
    assert bits(base.tuned()) == bits(DELTA)
    assert bits(VersionStore(store.root).base(base.digest).tuned()) == bits(DELTA)
    assert store.add_base(exporter()).tuned() == {}


def test_tuned_weights_are_part_of_the_digest(store: VersionStore) -> None:
    other = {name: value + np.float32(1) for name, value in DELTA.items() if name == "norm.weight"}
    digests = {
        store.add_base(exporter("tuned")).digest,
        tuned_base(store).digest,
        tuned_base(store, other).digest,
        tuned_base(store, {}).digest,
    }
    assert len(digests) == 4


def test_every_flipped_byte_of_the_tuned_weights_is_refused(store: VersionStore) -> None:
    base = tuned_base(store)
    path = base.directory / TUNED
    data = path.read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x01
        with (
            changed(path, bytes(flipped)),
            pytest.raises(VersionCorruptError, match="was altered: its files now give"),
        ):
            VersionStore(store.root).base(base.digest)


def test_tuned_weights_that_are_gone_or_were_put_there_are_refused(store: VersionStore) -> None:
    tuned, plain = tuned_base(store), store.add_base(exporter())
    (tuned.directory / TUNED).rename(plain.directory / TUNED)
    for base in (tuned, plain):
        with pytest.raises(VersionCorruptError, match="was altered"):
            VersionStore(store.root).base(base.digest)


def test_a_base_without_a_version_can_be_discarded(store: VersionStore) -> None:
    kept, unused = store.add_base(exporter()), tuned_base(store)
    store.publish(draft(base=kept.digest), DELTA, head())
    store.discard_base(unused.digest)
    assert [path.name for path in (store.root / "base").iterdir()] == [kept.digest]
    with pytest.raises(ForeignBaseError):
        store.base(unused.digest)
    assert store.find_base("tuned") is None


def test_a_base_that_a_version_is_a_delta_to_stays(store: VersionStore) -> None:
    first, second = store.add_base(exporter()), tuned_base(store)
    for base in (first, second, first):
        store.publish(draft(base=base.digest), DELTA, head())
    for base in (first, second):
        store.discard_base(base.digest)
        assert VersionStore(store.root).base(base.digest) == base


def test_a_refused_candidate_does_not_keep_its_base(store: VersionStore) -> None:
    base = tuned_base(store)
    store.refuse(draft(base=base.digest), DELTA, head(), ["not_finite"])
    store.discard_base(base.digest)
    assert list((store.root / "base").iterdir()) == []


def test_a_discarded_base_can_come_back(store: VersionStore) -> None:
    base = tuned_base(store)
    store.discard_base(base.digest)
    assert tuned_base(store) == base
    assert bits(base.tuned()) == bits(DELTA)


def test_a_version_that_cannot_be_read_does_not_keep_others_from_being_discarded_or_kept(
    store: VersionStore,
) -> None:
    """Rounds on a whole model discard; an old version that was altered must not end the worker."""
    used, unsure = store.add_base(exporter()), tuned_base(store)
    for base in (used, unsure):
        store.publish(draft(base=base.digest), DELTA, head())
    (store.root / "versions" / "000001" / "manifest.json").write_bytes(b"{")
    for base in (used, unsure):
        store.discard_base(base.digest)
        assert VersionStore(store.root).base(base.digest) == base
