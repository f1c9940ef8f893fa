"""Files or Redis, as the settings say; and what the processes of two machines see of one another."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError, LeaseLostError
from adaptsvc.metrics import Observer
from adaptsvc.sections import StateSettings
from adaptsvc.state import State, open_state
from adaptsvc.versions.lease import FileLease
from adaptsvc.versions.pointer import Current, FilePointer
from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.versions.contract_store import DELTA
from tests.adaptsvc.versions.examples import draft, head
from tests.redis_server import RedisServer

Machine = Callable[[str], Settings]


class Recorder(Observer):
    def __init__(self) -> None:
        self.reached: list[bool] = []

    def state_reached(self, reached: bool) -> None:
        self.reached.append(reached)


@pytest.fixture(params=["file", "redis"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """`machine(name)`: its settings. Files are shared by sharing the home, Redis by its address."""
    if request.param == "file":
        return lambda _name: Settings(home=tmp_path / "home")
    state: StateSettings = request.getfixturevalue("redis_settings")
    return lambda name: Settings(home=tmp_path / name, state=state)


@pytest.fixture
def unwatched() -> Iterator[list[Callable[[], None]]]:
    """What is in it is called at the end."""
    ends: list[Callable[[], None]] = []
    yield ends
    for end in ends:
        end()


def publish(state: State) -> int:
    return state.store.publish(draft(), DELTA, head()).id


def test_the_default_is_files_where_they_always_were(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    state = open_state(settings)
    assert isinstance(state.store, VersionStore)
    assert isinstance(state.pointer, FilePointer)
    assert isinstance(state.lease, FileLease)
    assert state.lasting is state.pointer
    state.pointer.force(publish(state))
    assert FilePointer(tmp_path / "store" / "CURRENT").read() == Current(0, 1)
    assert (tmp_path / "store" / "versions" / "000000" / "manifest.json").is_file()


def test_what_one_machine_promotes_the_other_serves(machine: Machine) -> None:
    here, there = open_state(machine("here")), open_state(machine("there"))
    version = publish(here)
    here.pointer.compare_and_set(None, version)
    assert there.lasting.read() == there.pointer.read() == Current(version, 1)
    assert there.store.load(version).manifest == here.store.manifest(version)


def test_of_two_workers_only_the_one_with_the_lease_writes(machine: Machine) -> None:
    first = open_state(machine("first"), fenced=True)
    second = open_state(machine("second"), fenced=True)
    assert first.lease.acquire()
    assert not second.lease.acquire()
    version = publish(first)
    first.pointer.compare_and_set(None, version)
    with pytest.raises(LeaseLostError):
        publish(second)
    with pytest.raises(LeaseLostError):
        second.pointer.compare_and_set(version, 7)
    first.lease.release()
    assert second.lease.acquire()
    second.pointer.compare_and_set(version, publish(second))
    assert first.pointer.read() == Current(1, 2)


def test_a_person_writes_beside_a_worker(machine: Machine) -> None:
    worker = open_state(machine("worker"), fenced=True)
    assert worker.lease.acquire()
    person = open_state(machine("person"))
    person.pointer.force(publish(person))
    assert worker.pointer.read() == Current(0, 1)


def test_watching_ends_when_asked_to(machine: Machine) -> None:
    before = threading.active_count()
    end = open_state(machine("here")).watch(lambda: None)
    end()
    assert threading.active_count() == before


def test_a_promotion_wakes_who_watches_redis(
    redis_settings: StateSettings, tmp_path: Path, unwatched: list[Callable[[], None]]
) -> None:
    here = open_state(Settings(home=tmp_path / "here", state=redis_settings))
    there = open_state(Settings(home=tmp_path / "there", state=redis_settings))
    rung = threading.Event()
    unwatched.append(there.watch(rung.set))
    assert rung.wait(20)  # subscribed
    rung.clear()
    here.pointer.force(0)
    assert rung.wait(20)


def test_a_machine_goes_on_and_starts_again_without_redis_and_catches_up(
    start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    server, observer = start_redis(persistent=True), Recorder()
    shared = StateSettings(kind="redis", url=server.url)
    here = open_state(Settings(home=tmp_path / "here", state=shared))
    settings = Settings(home=tmp_path / "there", state=shared)
    there = open_state(settings, observer)
    here.pointer.force(publish(here))
    there.store.load(0)
    there.lasting.read()
    server.kill()
    for state in (there, open_state(settings)):
        assert state.lasting.read() == Current(0, 1)
        assert state.store.load(0).manifest.id == 0
    server.start()
    fresh = open_state(Settings(home=tmp_path / "here", state=shared))
    fresh.pointer.compare_and_set(0, publish(fresh))
    deadline = threading.Event()
    for _ in range(100):
        if there.lasting.read() == Current(1, 2):
            break
        deadline.wait(0.1)
    assert there.store.load(there.lasting.read().version or 0).manifest.id == 1
    assert observer.reached == [False, True]


def test_redis_without_its_client_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['redis'] = None; from pathlib import Path; "
        "from adaptsvc.config import Settings, StateSettings; from adaptsvc.state import open_state; "
        "open_state(Settings(home=Path(sys.argv[1]), state=StateSettings(kind='redis')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "pip install 'adaptsvc[redis]', or set state.kind to 'file'" in done.stderr


def test_settings_that_contradict_one_another_are_refused(tmp_path: Path) -> None:
    state = StateSettings(kind="redis", ca_file="ca.pem")
    with pytest.raises(ConfigError, match="expected rediss://"):
        open_state(Settings(home=tmp_path, state=state))
