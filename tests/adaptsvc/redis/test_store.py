"""Versions in Redis keep the store's contract: written through, fetched once, and served without Redis."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptsvc.errors import (
    LeaseLostError,
    StateRefusedError,
    StateUnavailableError,
    VersionCorruptError,
    VersionTooLargeError,
)
from adaptsvc.redis import depot as depot_module
from adaptsvc.redis.depot import RedisDepot
from adaptsvc.redis.lease import RedisLease
from adaptsvc.redis.link import Link
from adaptsvc.sections import StateSettings
from adaptsvc.versions.lease import Lease
from adaptsvc.versions.shared import SharedStore
from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.versions.contract_store import (
    DELTA,
    StoreBench,
    StoreContract,
    bits,
    head_bits,
)
from tests.adaptsvc.versions.examples import draft, exporter, head
from tests.redis_server import RedisServer

Machine = Callable[..., SharedStore]


@pytest.fixture
def store_bench(machine: Machine, link: Link, tmp_path: Path) -> StoreBench:
    def fenced(lease: Lease) -> SharedStore:
        assert isinstance(lease, RedisLease)
        return machine(lease=lease)

    return StoreBench(
        open=machine,
        lease=lambda: RedisLease(link, 60),
        fenced=fenced,
        lose=lambda: link.call(lambda client: client.delete(link.key("lease"))),
        age=lambda digest: age(link, tmp_path, digest),
        sealed=lambda seal, root=None: machine(folder=root.name if root else "", seal=seal),
    )


def age(link: Link, machines: Path, digest: str) -> None:
    """A base has been there for a day, in Redis and on every machine."""
    key = link.key("bases")
    description = json.loads(link.call(lambda client: client.hget(key, digest)))  # type: ignore[arg-type]
    text = json.dumps({**description, "at": 0.0})
    link.call(lambda client: client.hset(key, digest, text))
    for directory in machines.glob(f"*/base/{digest}"):
        os.utime(directory, (0, 0))


class TestSharedStore(StoreContract):
    """All of the contract."""


def folder_of(store: SharedStore, version: int) -> Path:
    return store.root / "versions" / f"{version:06d}"


def files_of(store: SharedStore, version: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder_of(store, version).iterdir()}


def test_a_fetched_version_is_the_published_one_byte_by_byte(machine: Machine) -> None:
    here, there = machine(), machine()
    here.publish(draft(), DELTA, head())
    there.load(0)
    assert files_of(there, 0) == files_of(here, 0)


def test_a_version_that_was_fetched_is_loaded_with_redis_gone_and_after_a_restart(
    start_redis: Callable[..., RedisServer], machine: Machine
) -> None:
    server = start_redis()
    settings = StateSettings(url=server.url)
    here, there = machine(settings=settings), machine("there", settings)
    base = here.add_base(exporter())
    here.publish(draft(base=base.digest), DELTA, head())
    here.publish(draft(base=base.digest), DELTA, head())
    there.load(0)
    there.base(base.digest)
    server.kill()
    for store in (there, machine("there", settings)):
        assert bits(store.load(0).delta) == bits(DELTA)
        assert store.base(base.digest).graph.read_bytes() == b"onnx graph"
        assert store.ids() == [0]
        assert store.manifest(0).id == 0


def test_what_is_not_here_says_that_redis_is_gone_and_not_that_there_is_no_such_version(
    start_redis: Callable[..., RedisServer], machine: Machine
) -> None:
    server = start_redis()
    settings = StateSettings(url=server.url)
    here, there = machine(settings=settings), machine(settings=settings)
    base = here.add_base(exporter())
    here.publish(draft(base=base.digest), DELTA, head())
    server.kill()
    for read in (lambda: there.load(0), lambda: there.manifest(0), lambda: there.base(base.digest)):
        with pytest.raises(StateUnavailableError, match=r"Redis at .* does not answer"):
            read()
    assert there.find_base("tower") is None  # so it is exported, where there is a model


def test_a_publication_with_redis_gone_leaves_nothing(
    start_redis: Callable[..., RedisServer], machine: Machine
) -> None:
    server = start_redis()
    store = machine(settings=StateSettings(url=server.url))
    server.kill()
    with pytest.raises(StateUnavailableError):
        store.publish(draft(), DELTA, head())
    assert not list((store.root / "versions").iterdir())


def test_a_publication_whose_upload_fails_leaves_nothing_and_its_id_is_not_used_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine()

    def cut(*_: object) -> None:
        raise StateUnavailableError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(RedisDepot, "put", cut)
        with pytest.raises(StateUnavailableError):
            store.publish(draft(), DELTA, head())
    assert not list((store.root / "versions").iterdir())
    assert store.ids() == []
    assert store.publish(draft(), DELTA, head()).id == 1


def test_a_lease_lost_between_the_id_and_the_upload_is_noticed(
    machine: Machine, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = RedisLease(link, 60)
    assert lease.acquire()
    store = machine(lease=lease)
    put = RedisDepot.put

    def late(self: RedisDepot, version: int, files: dict[str, bytes]) -> None:
        link.call(lambda client: client.delete(lease.key))
        put(self, version, files)

    monkeypatch.setattr(RedisDepot, "put", late)
    with pytest.raises(LeaseLostError):
        store.publish(draft(), DELTA, head())
    assert store.ids() == machine().ids() == []
    assert not list((store.root / "versions").iterdir())


@pytest.mark.parametrize("name", ["manifest.json", "delta.safetensors", "head.safetensors"])
def test_a_copy_altered_here_is_fetched_again(
    machine: Machine, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = machine(), machine()
    here.publish(draft(), DELTA, head())
    there.load(0)
    path = folder_of(there, 0) / name
    path.write_bytes(path.read_bytes()[:-3])
    caplog.set_level(logging.WARNING)
    assert head_bits(there.load(0).head) == head_bits(head())
    assert files_of(there, 0) == files_of(here, 0)


@pytest.mark.parametrize("name", ["manifest.json", "delta.safetensors", "head.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_what_was_altered_in_redis_is_refused_and_not_kept(
    machine: Machine, link: Link, name: str, damage: str
) -> None:
    here, there = machine(), machine()
    here.publish(draft(), DELTA, head())
    key = link.key("version", "0")
    if damage == "missing":
        link.call(lambda client: client.hdel(key, name))
    else:
        link.call(lambda client: client.hset(key, name, files_of(here, 0)[name][:-1]))
    if (name, damage) == ("manifest.json", "missing"):  # then there is no such version
        link.call(lambda client: client.hset(key, name, b""))
    with pytest.raises(VersionCorruptError):
        there.load(0)
    assert there.ids() == [0]
    assert not list((there.root / "versions").iterdir())


def test_a_sound_copy_here_serves_when_the_one_in_redis_was_altered(
    machine: Machine, link: Link
) -> None:
    here = machine()
    here.publish(draft(), DELTA, head())
    link.call(lambda client: client.hset(link.key("version", "0"), "manifest.json", b"{"))
    assert bits(here.load(0).delta) == bits(DELTA)
    with pytest.raises(VersionCorruptError):
        machine().load(0)


def test_files_of_other_names_are_not_written(machine: Machine, link: Link) -> None:
    here, there = machine(), machine()
    here.publish(draft(), DELTA, head())
    link.call(lambda client: client.hset(link.key("version", "0"), "../../escaped", b"x"))
    there.load(0)
    assert set(files_of(there, 0)) == {"manifest.json", "delta.safetensors", "head.safetensors"}
    assert not list(there.root.rglob("escaped"))


def test_ids_go_on_above_what_a_machine_had_before_it_used_redis(machine: Machine) -> None:
    store = machine("old")
    for _ in range(3):
        VersionStore(store.root).publish(draft(), DELTA, head())
    assert store.publish(draft(), DELTA, head()).id == 3
    assert store.ids() == [3]
    assert store.load(1).manifest.id == 1  # what was there before can still be activated


def test_a_version_of_the_same_id_and_other_content_takes_the_place_of_the_one_here(
    machine: Machine, link: Link
) -> None:
    """After Redis lost its last second: another worker was given an id that this machine has seen."""
    here, other = machine(), machine()
    VersionStore(here.root).publish(draft(seed=1), DELTA, head())
    other.publish(draft(seed=2), DELTA, head())
    assert here.load(0).manifest.seed == 2


def test_a_version_in_redis_is_never_written_over(machine: Machine, link: Link) -> None:
    store, other = machine(), machine()
    store.publish(draft(seed=1), DELTA, head())
    link.call(lambda client: client.delete(link.key("versions", "last")))
    with pytest.raises(StateRefusedError, match="has a version 0 already, expected none"):
        other.publish(draft(seed=2), DELTA, head())
    assert machine().load(0).manifest.seed == 1


def test_a_version_over_the_cap_is_refused_naming_the_setting(
    machine: Machine, redis_settings: StateSettings
) -> None:
    small = redis_settings.model_copy(update={"max_version_bytes": 1000})
    store = machine(settings=small)
    with pytest.raises(
        VersionTooLargeError,
        match=r"version 0 has \d+ bytes, at most 1000 .*state\.max_version_bytes",
    ):
        store.publish(draft(), DELTA, head())
    assert store.ids() == []
    assert not list((store.root / "versions").iterdir())


def test_a_base_over_the_cap_is_refused_before_anything_is_sent(
    machine: Machine, redis_settings: StateSettings, link: Link
) -> None:
    store = machine(settings=redis_settings.model_copy(update={"max_base_bytes": 100}))
    base = store.add_base(exporter())
    with pytest.raises(VersionTooLargeError, match=r"raise state\.max_base_bytes"):
        store.publish(draft(base=base.digest), DELTA, head())
    pattern = link.key("base*").replace("{", "?")
    assert link.call(lambda client: list(client.scan_iter(pattern))) == []


def test_a_base_goes_to_redis_with_the_first_version_that_needs_it_and_once(
    machine: Machine, link: Link
) -> None:
    store = machine()
    base = store.add_base(exporter())

    def kept() -> int:
        return int(link.call(lambda client: client.hlen(link.key("bases"))))

    assert kept() == 0
    for _ in range(2):
        store.publish(draft(base=base.digest), DELTA, head())
        assert kept() == 1


def test_a_base_of_many_pieces_is_put_together_again(
    machine: Machine, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depot_module, "PIECE_BYTES", 7)
    here, there = machine(), machine()
    base = here.add_base(exporter(graph=bytes(range(250))))
    here.publish(draft(base=base.digest), DELTA, head())
    assert (
        link.call(lambda client: client.strlen(link.key("base", base.digest, "model.onnx", "3")))
        == 7
    )
    assert there.base(base.digest).graph.read_bytes() == bytes(range(250))


def test_an_empty_file_of_a_base_is_fetched_too(machine: Machine) -> None:
    here, there = machine(), machine()
    base = here.add_base(exporter(graph=b""))
    here.publish(draft(base=base.digest), DELTA, head())
    assert there.base(base.digest).graph.read_bytes() == b""


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_base_altered_in_redis_is_refused_and_not_kept(
    machine: Machine, link: Link, damage: str
) -> None:
    here, there = machine(), machine()
    base = here.add_base(exporter())
    here.publish(draft(base=base.digest), DELTA, head())
    key = link.key("base", base.digest, "model.onnx", "0")
    if damage == "missing":
        link.call(lambda client: client.delete(key))
    else:
        link.call(lambda client: client.set(key, b"0nnx graph"))
    with pytest.raises(VersionCorruptError, match=r"was altered where|piece 0 of model\.onnx"):
        there.base(base.digest)
    assert not list((there.root / "base").iterdir())


def test_a_base_deleted_here_is_fetched_again(machine: Machine) -> None:
    store = machine("one")
    base = store.add_base(exporter())
    store.publish(draft(base=base.digest), DELTA, head())
    shutil.rmtree(base.directory)
    assert machine("one").base(base.digest) == base
