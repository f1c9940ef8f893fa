"""What comes back when Redis or a machine lost something, and what stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adaptsvc.errors import (
    VersionNotFoundError,
)
from adaptsvc.redis.lease import NoLease
from adaptsvc.redis.link import Link
from adaptsvc.redis.pins import RedisPins
from adaptsvc.redis.pointer import RedisPointer
from adaptsvc.sections import StateSettings
from adaptsvc.versions.shared import SharedStore
from tests.adaptsvc.versions.contract_store import (
    DELTA,
    bits,
)
from tests.adaptsvc.versions.examples import draft, exporter, head
from tests.redis_server import RedisServer

Machine = Callable[..., SharedStore]


def folder_of(store: SharedStore, version: int) -> Path:
    return store.root / "versions" / f"{version:06d}"


def files_of(store: SharedStore, version: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder_of(store, version).iterdir()}


def test_versions_survive_kill_and_restart(
    start_redis: Callable[..., RedisServer], machine: Machine
) -> None:
    server = start_redis(persistent=True)
    settings = StateSettings(url=server.url)
    here = machine(settings=settings)
    for _ in range(3):
        here.publish(draft(), DELTA, head())
    server.kill()
    server.start()
    there = machine(settings=settings)
    assert there.ids() == [0, 1, 2]
    assert bits(there.load(2).delta) == bits(DELTA)
    assert there.publish(draft(), DELTA, head()).id == 3


def forget(link: Link) -> None:
    """Redis loses all of this installation."""
    keys = link.call(lambda client: list(client.scan_iter(link.key("*").replace("{", "?"))))
    link.call(lambda client: client.delete(*keys))


def test_a_machine_brings_back_what_redis_lost_with_ancestors_and_base(
    machine: Machine, link: Link
) -> None:
    here = machine()
    base = here.add_base(exporter())
    for parent in (None, 0, 0, 2):
        here.publish(draft(base=base.digest, parent=parent), DELTA, head())
    forget(link)
    here.share(3)
    there = machine()
    assert there.ids() == [0, 2, 3]
    assert bits(there.load(3).delta) == bits(DELTA)
    assert there.base(base.digest).graph.read_bytes() == b"onnx graph"
    assert there.publish(draft(parent=3), DELTA, head()).id == 4


def test_what_is_there_is_not_put_there_again(machine: Machine) -> None:
    here = machine()
    here.publish(draft(parent=None), DELTA, head())
    here.share(0)
    machine().share(0)
    assert machine().ids() == [0]


def test_what_is_nowhere_cannot_be_shared(machine: Machine) -> None:
    with pytest.raises(VersionNotFoundError):
        machine().share(0)


def test_redis_itself_keeps_what_serves_and_what_is_pinned(machine: Machine, link: Link) -> None:
    store = machine()
    for _ in range(3):
        store.publish(draft(), DELTA, head())
    RedisPointer(link, NoLease(link)).force(1)
    RedisPins(link).add(0)
    assert [store.prune(version) for version in range(4)] == [False, False, True, False]
    assert store.ids() == [0, 1]


def test_a_machine_brings_back_the_line_of_descent_with_what_was_pruned_of_it(
    machine: Machine, link: Link
) -> None:
    here = machine()
    for parent in (None, 0, 1):
        here.publish(draft(parent=parent), DELTA, head())
    here.prune(1)
    forget(link)
    here.share(2)
    there = machine()
    assert (there.ids(), there.pruned()) == ([0, 2], [1])
    assert there.manifest(1).parent == 0


def test_the_copies_on_other_machines_go_with_their_next_load(machine: Machine) -> None:
    here, there = machine(), machine()
    for _ in range(2):
        here.publish(draft(), DELTA, head())
        there.load(here.ids()[-1])
    here.prune(0)
    assert there.root.joinpath("versions", "000000").exists()
    there.load(1)
    assert not there.root.joinpath("versions", "000000").exists()


def test_ids_go_on_above_this_machines_when_redis_was_emptied(machine: Machine, link: Link) -> None:
    store = machine()
    for _ in range(3):
        store.publish(draft(), DELTA, head())
    forget(link)
    assert store.publish(draft(), DELTA, head()).id == 3
