"""What every store must do, as several machines see it. Knows nothing of which store it tests.

A test module subclasses `StoreContract` and gives it the fixture `store_bench`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from adaptsvc.errors import (
    ForeignBaseError,
    LeaseLostError,
    VersionCorruptError,
    VersionNotFoundError,
    VersionPrunedError,
    VersionUnsignedError,
)
from adaptsvc.types import Tensors
from adaptsvc.versions.base import BASE_FILES
from adaptsvc.versions.delta import Head
from adaptsvc.versions.lease import Lease
from adaptsvc.versions.manifest import Draft
from adaptsvc.versions.seal import Seal
from adaptsvc.versions.store import Store
from tests.adaptsvc.versions.examples import HEX, draft, exporter, head

DELTA: Tensors = {
    "norm.weight": np.linspace(0, 1, 5, dtype=np.float32),
    "norm.bias": np.array([-0.0, 1e-45, 3e38, 1, 2], np.float32),
}


@dataclass(frozen=True)
class StoreBench:
    """A store, as several machines see it.

    Attributes:
        open: one more machine's view of it, that needs no lease.
        lease: one more worker's lease.
        fenced: the store on the machine of the worker with that lease.
        lose: whoever holds the lease does no longer, and is not told.
        age: a base has been there for a day, by its digest.
        sealed: one more machine's view with these keys, or that of the machine with a folder.
    """

    open: Callable[[], Store]
    lease: Callable[[], Lease]
    fenced: Callable[[Lease], Store]
    lose: Callable[[], object]
    age: Callable[[str], object]
    sealed: Callable[..., Store]


def bits(tensors: Tensors) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def head_bits(value: Head) -> dict[str, bytes]:
    return bits({name: getattr(value, name) for name in Head.__slots__})


class StoreContract:
    """All of the contract."""

    def test_a_version_is_read_back_bit_by_bit_everywhere(self, store_bench: StoreBench) -> None:
        here = store_bench.open()
        manifest = here.publish(draft(seed=5), DELTA, head())
        for store in (here, store_bench.open()):
            found = store.load(0)
            assert found.manifest == manifest == store.manifest(0)
            assert bits(found.delta) == bits(DELTA)
            assert head_bits(found.head) == head_bits(head())
        fields = {name: getattr(manifest, name) for name in Draft.model_fields}
        assert Draft(**fields) == draft(seed=5)

    def test_the_record_of_a_round_is_read_back_everywhere(self, store_bench: StoreBench) -> None:
        here = store_bench.open()
        here.publish(draft(seed=5), DELTA, head(), record=b"which images")
        here.publish(draft(seed=6), DELTA, head())
        for store in (here, store_bench.open()):
            assert store.record(0) == b"which images"
            with pytest.raises(VersionNotFoundError):
                store.record(2)
            assert store.record(1) == b""

    def test_ids_rise_by_one_whoever_publishes(self, store_bench: StoreBench) -> None:
        stores = [store_bench.open() for _ in range(3)]
        assert stores[0].ids() == []
        published = [store.publish(draft(), DELTA, head()).id for store in stores * 2]
        assert published == [0, 1, 2, 3, 4, 5]
        assert [store.ids() for store in stores] == [published] * 3

    def test_writers_at_once_get_different_ids(self, store_bench: StoreBench) -> None:
        start, found = threading.Barrier(4), list[int]()

        def write(store: Store) -> None:
            start.wait()
            for _ in range(5):
                found.append(store.publish(draft(), DELTA, head()).id)

        threads = [threading.Thread(target=write, args=(store_bench.open(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        store = store_bench.open()
        assert sorted(found) == store.ids() == list(range(20))
        assert [store.load(version).manifest.id for version in store.ids()] == list(range(20))

    @pytest.mark.parametrize("version", [1, 77])
    def test_a_version_that_is_not_there_is_named(
        self, store_bench: StoreBench, version: int
    ) -> None:
        store = store_bench.open()
        store.publish(draft(), DELTA, head())
        for read in (store.load, store.manifest):
            with pytest.raises(VersionNotFoundError, match=f"no version {version}; there are"):
                read(version)

    def test_a_base_is_found_by_its_digest_and_its_tower_wherever_a_version_needs_it(
        self, store_bench: StoreBench
    ) -> None:
        here = store_bench.open()
        base = here.add_base(exporter("one", b"graph of one"))
        here.publish(draft(base=base.digest), DELTA, head())
        for store in (here, store_bench.open()):
            found = store.base(base.digest)
            assert found.digest == base.digest
            assert {path.name for path in found.directory.iterdir()} == set(BASE_FILES)
            assert found.graph.read_bytes() == b"graph of one"
            assert store.find_base("one") == found
            assert store.find_base("two") is None

    def test_a_base_is_found_by_its_tower_before_it_is_asked_for_by_its_digest(
        self, store_bench: StoreBench
    ) -> None:
        here = store_bench.open()
        base = here.add_base(exporter("one", b"graph of one"))
        here.publish(draft(base=base.digest), DELTA, head())
        found = store_bench.open().find_base("one")
        assert found is not None
        assert found.digest == base.digest

    def test_a_base_that_is_nowhere_is_refused_saying_how_to_get_it(
        self, store_bench: StoreBench
    ) -> None:
        with pytest.raises(ForeignBaseError, match=r"0123456789ab is not in .*'adaptsvc export'"):
            store_bench.open().base(HEX)

    def test_a_discarded_base_is_gone_unless_a_version_needs_it(
        self, store_bench: StoreBench
    ) -> None:
        store = store_bench.open()
        kept, gone = store.add_base(exporter("kept")), store.add_base(exporter("gone", b"other"))
        store.publish(draft(base=kept.digest), DELTA, head())
        for base in (kept, gone):
            store.discard_base(base.digest)
        assert store.base(kept.digest) == kept
        with pytest.raises(ForeignBaseError):
            store.base(gone.digest)

    def test_a_refused_candidate_is_kept_and_is_no_version(self, store_bench: StoreBench) -> None:
        store = store_bench.open()
        folder = store.refuse(draft(), DELTA, head(), ["not_finite"])
        assert (store.refused(), store.ids()) == ([folder], [])

    def test_an_altered_copy_is_never_read(self, store_bench: StoreBench) -> None:
        """It is refused, or what everyone else has is read instead."""
        store = store_bench.open()
        store.publish(draft(), DELTA, head())
        path = store.root / "versions" / "000000" / "delta.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
        try:
            found = store.load(0)
        except VersionCorruptError:
            return
        assert bits(found.delta) == bits(DELTA)

    def test_the_worker_with_the_lease_publishes(self, store_bench: StoreBench) -> None:
        lease = store_bench.lease()
        assert lease.acquire()
        assert store_bench.fenced(lease).publish(draft(), DELTA, head()).id == 0
        assert store_bench.open().ids() == [0]

    def test_a_worker_without_the_lease_cannot_publish(self, store_bench: StoreBench) -> None:
        store = store_bench.fenced(store_bench.lease())
        with pytest.raises(LeaseLostError, match="we hold no lease"):
            store.publish(draft(), DELTA, head())
        assert store.ids() == store_bench.open().ids() == []
        assert not list((store.root / "versions").iterdir())

    def test_a_worker_whose_lease_is_another_ones_cannot_publish(
        self, store_bench: StoreBench
    ) -> None:
        slept, awake = store_bench.lease(), store_bench.lease()
        assert slept.acquire()
        late = store_bench.fenced(slept)
        assert late.publish(draft(), DELTA, head()).id == 0
        store_bench.lose()
        assert awake.acquire()
        with pytest.raises(LeaseLostError, match="token 1 is no longer ours"):
            late.publish(draft(), DELTA, head())
        assert store_bench.open().ids() == [0]
        assert store_bench.fenced(awake).publish(draft(), DELTA, head()).id == 1

    def test_of_a_pruned_version_the_manifest_is_left_everywhere(
        self, store_bench: StoreBench
    ) -> None:
        here, there = store_bench.open(), store_bench.open()
        manifests = [here.publish(draft(parent=None), DELTA, head()) for _ in range(3)]
        there.load(1)
        assert here.prune(1)
        for store in (here, there, store_bench.open()):
            assert (store.ids(), store.pruned()) == ([0, 2], [1])
            with pytest.raises(VersionPrunedError, match="weights of version 1 were deleted"):
                store.load(1)
            with pytest.raises(VersionPrunedError):
                store.share(1)
            assert store.manifest(1) == manifests[1]
            assert not list((store.root / "versions").glob("000001"))
        assert not here.prune(1)
        assert here.publish(draft(), DELTA, head()).id == 3

    def test_a_worker_without_the_lease_cannot_prune(self, store_bench: StoreBench) -> None:
        store_bench.open().publish(draft(), DELTA, head())
        store_bench.open().publish(draft(), DELTA, head())
        with pytest.raises(LeaseLostError):
            store_bench.fenced(store_bench.lease()).prune(0)
        assert store_bench.open().ids() == [0, 1]

    def test_old_bases_that_no_version_needs_are_deleted_everywhere(
        self, store_bench: StoreBench
    ) -> None:
        store = store_bench.open()
        bases = [store.add_base(exporter(name, name.encode())) for name in ("kept", "gone", "new")]
        for base in bases:
            store.publish(draft(base=base.digest), DELTA, head())
        store.prune(1)
        store.prune(2)
        store_bench.age(bases[0].digest)
        store_bench.age(bases[1].digest)
        assert store.prune_bases() == [bases[1].digest]
        for each in (store, store_bench.open()):
            assert each.base(bases[0].digest).graph.read_bytes() == b"kept"
            with pytest.raises(ForeignBaseError):
                each.base(bases[1].digest)
            assert each.find_base("new") is not None

    def test_why_a_candidate_was_refused_is_known_everywhere(self, store_bench: StoreBench) -> None:
        here = store_bench.open()
        for number in range(25):
            here.refuse(draft(seed=number), DELTA, head(), ["collapsed", f"number {number}"])
        for store in (here, store_bench.open()):
            refusals = store.refusals()
            assert [refusal.draft.seed for refusal in refusals] == list(range(5, 25))
            assert refusals[-1].reasons == ("collapsed", "number 24")

    def test_with_keys_only_what_one_of_them_signed_is_read_anywhere(
        self, store_bench: StoreBench
    ) -> None:
        first, second = Seal([b"1" * 32]), Seal([b"2" * 32, b"1" * 32])
        store_bench.open().publish(draft(parent=None), DELTA, head())
        store_bench.sealed(first).publish(draft(parent=None), DELTA, head())
        both = store_bench.sealed(second)
        both.publish(draft(parent=None), DELTA, head())
        assert [both.load(version).manifest.id for version in (1, 2)] == [1, 2]
        for version in (0, 2):
            for read in (store_bench.sealed(first).load, store_bench.sealed(first).manifest):
                with pytest.raises(VersionUnsignedError, match=f"version {version} is .*expected"):
                    read(version)
        assert store_bench.open().load(2).manifest.id == 2

    def test_a_version_is_signed_later_and_again_with_another_key(
        self, store_bench: StoreBench
    ) -> None:
        store_bench.open().publish(draft(parent=None), DELTA, head())
        for seal in (Seal([b"1" * 32]), Seal([b"2" * 32])):
            machine = store_bench.open()
            machine.load(0)
            signer = store_bench.sealed(seal, machine.root)
            signer.sign(0)
            for store in (signer, store_bench.sealed(seal)):
                assert bits(store.load(0).delta) == bits(DELTA)
