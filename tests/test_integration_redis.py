"""Claims about machines on one Redis, with real processes: what an outage does, and a second worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from adaptsvc.config import Settings
from adaptsvc.processes import (
    Child,
    service_command,
    service_environment,
    settings_environment,
    worker_command,
)
from adaptsvc.sections import StateSettings
from adaptsvc.state import State, open_state
from adaptsvc.versions.manifest import Draft
from streams.message import NewMessage
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.conftest import free_port
from tests.redis_server import RedisServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True),
]
RAW = {"content-type": "image/png"}
PROMPT_S = 5.0  # for an answer, on a busy machine: less than the longest wait for Redis
TIMEOUT_S, LEASE_S = 10.0, 6.0


@dataclass
class Machine:
    """One machine: a home, and a process on it."""

    settings: Settings
    environment: dict[str, str]
    log: Path
    children: list[Child] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.serve.port}"

    def start_service(self) -> Child:
        environment = {**self.environment, **service_environment(self.settings)}
        return self._start("service", service_command(self.settings), environment)

    def start_worker(self) -> Child:
        return self._start("worker", worker_command(), self.environment)

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> Child:
        self.children.append(Child.start(name, command, environment, self.log))
        return self.children[-1]

    def wait(self, holds: Callable[[], bool], what: str, timeout_s: float = 180) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_s} s: {what}\n{self.said()[-4000:]}")
            time.sleep(0.1)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def get(self, path: str) -> tuple[httpx.Response, float]:
        started = time.monotonic()
        return httpx.get(self.url + path, timeout=30), time.monotonic() - started

    def ready(self) -> bool:
        try:
            return self.get("/readyz")[0].is_success
        except httpx.TransportError:
            return False

    def serving(self) -> int:
        return int(self.get("/v1/model")[0].json()["model_version"])

    def classify(self, data: bytes) -> tuple[httpx.Response, float]:
        started = time.monotonic()
        answer = httpx.post(self.url + "/v1/classify", content=data, headers=RAW, timeout=30)
        return answer, time.monotonic() - started

    def metric(self, name: str) -> float:
        lines = self.get("/metrics")[0].text.splitlines()
        return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])

    def send(self, messages: list[NewMessage]) -> None:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        log = SqliteLog(self.settings.stream_file, load_topics())
        log.append("images.unlabeled", messages)
        log.close()


@pytest.fixture
def machine(
    tmp_path: Path, tiny_directory: Path, tiny_settings: Callable[..., Settings]
) -> Iterator[Callable[[str, RedisServer], Machine]]:
    """`machine(name, redis)`: an empty home of that name whose state is in that Redis."""
    machines: list[Machine] = []

    def make(name: str, server: RedisServer) -> Machine:
        state = StateSettings(
            kind="redis", url=server.url, timeout_s=TIMEOUT_S, lease_s=LEASE_S, prefix="fleet"
        )
        port = free_port()
        settings = tiny_settings(tiny_directory, state=state).model_copy(
            update={"home": tmp_path / name}
        )
        serve = settings.serve.model_copy(update={"port": port, "workers": 1})
        overrides = {
            "home": str(settings.home),
            "model": settings.model,
            "classes": json.dumps(settings.classes),
            "serve.port": str(port),
            "serve.poll_interval_s": "0.2",
            "state.kind": "redis",
            "state.url": state.url,
            "state.prefix": state.prefix,
            "state.timeout_s": str(TIMEOUT_S),
            "state.lease_s": str(LEASE_S),
            "learn.round_images": "16",
            "learn.window_images": "32",
            "learn.batch_images": "8",
            "learn.passes": "1",
            "learn.niceness": "0",
        }
        machines.append(
            Machine(
                settings.model_copy(update={"serve": serve}),
                settings_environment(overrides),
                tmp_path / f"{name}.log",
            )
        )
        return machines[-1]

    yield make
    for one in machines:
        for child in one.children:
            if child.running:
                child.process.send_signal(signal.SIGCONT)
            child.stop(5)


@pytest.fixture
def trained(
    tmp_path: Path,
    tiny_directory: Path,
    tiny_home: Callable[[Path], Path],
    tiny_settings: Callable[..., Settings],
) -> Callable[[RedisServer], State]:
    """`trained(redis)`: puts version 0 and its base into Redis, from a machine that had them in files."""

    def put(server: RedisServer) -> State:
        shared = StateSettings(kind="redis", url=server.url, prefix="fleet", timeout_s=20)
        settings = tiny_settings(tiny_directory, state=shared)
        elsewhere = settings.model_copy(update={"home": tmp_path / "elsewhere"})
        shutil.copytree(tiny_home(tiny_directory), elsewhere.home)
        state = open_state(elsewhere)
        state.store.share(0)
        state.pointer.force(0)
        return state

    return put


def images(png: Callable[[int], bytes], first: int) -> list[NewMessage]:
    return [NewMessage(f"i{n}", png(n)) for n in range(first, first + 16)]


def test_a_service_on_an_empty_machine_serves_through_every_outage_of_redis(
    start_redis: Callable[..., RedisServer],
    machine: Callable[[str, RedisServer], Machine],
    trained: Callable[[RedisServer], State],
    png: Callable[[int], bytes],
) -> None:
    server = start_redis(persistent=True)
    state = trained(server)
    service = machine("service", server)
    child = service.start_service()
    service.wait(service.ready, "the service has fetched base and version, and is ready")
    before = service.classify(png(0))[0].json()
    assert before["model_version"] == 0
    assert service.metric("adaptsvc_state_up") == 1

    server.freeze()
    service.wait(lambda: service.metric("adaptsvc_state_up") == 0, "the outage is seen", 60)
    for _ in range(20):
        for answer, seconds in (service.classify(png(0)), service.get("/readyz")):
            assert answer.is_success
            assert seconds < PROMPT_S
    assert service.classify(png(0))[0].json() == before
    history, seconds = service.get("/v1/versions")
    assert [(v["id"], v["pinned"]) for v in history.json()["versions"]] == [(0, None)]
    assert seconds < TIMEOUT_S + PROMPT_S

    server.kill()
    assert child.stop() == 0
    service.start_service()
    service.wait(service.ready, "it starts again with Redis gone")
    assert service.classify(png(0))[0].json() == before
    assert service.metric("adaptsvc_state_up") == 0
    assert service.metric("adaptsvc_state_outages_total") == 1
    time.sleep(5)  # 25 polls
    assert service.said().count("does not answer") == 2  # one per process

    server.start()
    service.wait(lambda: service.metric("adaptsvc_state_up") == 1, "Redis is back", 30)
    zero = state.store.load(0)
    fields = {name: getattr(zero.manifest, name) for name in Draft.model_fields}
    moved = state.store.publish(Draft(**{**fields, "parent": 0}), {}, zero.head).id
    state.pointer.compare_and_set(0, moved)
    service.wait(lambda: service.serving() == moved, "it catches up by itself", 30)
    assert service.said().count("answers again") == 1


def test_the_second_worker_takes_over_and_the_one_that_slept_ends_without_writing(
    start_redis: Callable[..., RedisServer],
    machine: Callable[[str, RedisServer], Machine],
    trained: Callable[[RedisServer], State],
    png: Callable[[int], bytes],
) -> None:
    server = start_redis(persistent=True)
    state = trained(server)
    first, second = machine("first", server), machine("second", server)
    for worker in (first, second):
        worker.environment["ADAPTSVC_GUARD__WINDOW_INFORMATION"] = "0"
        worker.environment["ADAPTSVC_GUARD__CLASS_KEPT"] = "0"
    slept = first.start_worker()
    first.wait(lambda: "this worker writes, with token 1" in first.said(), "it holds the lease")
    first.send(images(png, 0))
    first.wait(lambda: (state.pointer.read().version or 0) >= 1, "it promotes")
    awake = second.start_worker()
    second.wait(lambda: "another worker holds the lease" in second.said(), "the second waits")
    os.kill(slept.process.pid, signal.SIGSTOP)
    second.wait(lambda: "this worker writes, with token 2" in second.said(), "it takes over", 60)
    promoted = state.pointer.read()
    first.send(images(png, 100))
    os.kill(slept.process.pid, signal.SIGCONT)
    assert slept.process.wait(60) == 1
    assert "is another worker's or free" in first.said()
    assert state.pointer.read() == promoted
    second.send(images(png, 200))
    second.wait(lambda: state.pointer.read().sequence > promoted.sequence, "the second promotes")
    assert awake.running
    assert awake.stop() == 0
    assert state.lease.acquire()  # given back
    state.lease.release()
