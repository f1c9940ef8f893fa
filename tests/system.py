"""A service and a worker of the tiny model, as real processes on one home."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.conftest import GUARD, free_port

RAW = {"content-type": "image/png"}


@dataclass
class System:
    """A service and a worker on one home, as `adaptsvc up` runs them."""

    settings: Settings
    environment: dict[str, str]
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
        child = Child.start(name, command, environment, self.settings.home / f"{name}.log")
        self.children.append(child)
        return child

    def wait(self, holds: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                logs = [
                    p.read_text(errors="replace")[-2000:] for p in self.settings.home.glob("*.log")
                ]
                pytest.fail(f"not within {timeout_s} s: {what}\n" + "\n".join(logs))
            time.sleep(0.1)

    def ready(self) -> bool:
        try:
            return httpx.get(self.url + "/readyz").is_success
        except httpx.TransportError:
            return False

    def classify(self, data: bytes) -> httpx.Response:
        return httpx.post(self.url + "/v1/classify", content=data, headers=RAW, timeout=20)

    def metrics(self) -> str:
        return httpx.get(self.url + "/metrics").text

    def serving(self) -> int:
        return int(httpx.get(self.url + "/v1/model").json()["model_version"])

    def log(self) -> SqliteLog:
        return SqliteLog(self.settings.stream_file, load_topics())


@pytest.fixture
def system(prepared: Settings) -> Iterator[System]:
    port = free_port()
    overrides = {
        "home": str(prepared.home),
        "model": prepared.model,
        "classes": json.dumps(prepared.classes),
        "serve.port": str(port),
        "serve.poll_interval_s": "0.1",
        "learn.round_images": "16",
        "learn.window_images": "32",
        "learn.batch_images": "8",
        "learn.passes": "1",
        "learn.niceness": "0",
        **{f"guard.{key}": str(value) for key, value in GUARD.items()},
    }
    serve = prepared.serve.model_copy(update={"port": port, "workers": 1})
    system = System(prepared.model_copy(update={"serve": serve}), settings_environment(overrides))
    yield system
    for child in system.children:
        child.stop(5)
