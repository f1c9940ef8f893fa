"""One installation of real processes: a service, workers, a stream, and what was sent to it.

It knows nothing of faults.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

import httpx

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.processes import Child, service_command, service_environment, settings_environment
from adaptsvc.state import open_state
from adaptsvc.streaming import IMAGES, open_log
from adaptsvc.versions.files import write_atomic
from streams.errors import LogUnavailableError
from streams.message import NewMessage, Position
from tests.conftest import CLASSES, GUARD, LEARN, draw_png, free_port
from tests.faults.ledger import Counts, Ledger
from tests.faults.moments import CLOCK, FATE, OUTPUT, End, work

WAIT_S, STEP_S = 240.0, 0.2
# Random towers keep little of what the guard asks for: here every round is to come to a version.
LENIENT = {**GUARD, "agreement": 0.0, "marginal_entropy_kept": 0.0}
ROUND_IMAGES = int(LEARN["round_images"])

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["adaptsvc.cli", "adaptsvc.bootstrap", "open_clip", "streams.kafka"]
)


class Site:
    """One installation.

    Args:
        folder: of what its processes say, and of the worker's fate.
        home: of the service and its worker; it has a version that can serve.
        model: the directory of the CLIP.
        others: more settings, by key.
    """

    def __init__(
        self, folder: Path, home: Path, model: Path, others: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        overrides = {
            "home": str(home),
            "model": f"local-dir:{model}",
            "classes": json.dumps(CLASSES),
            "serve.port": str(free_port()),
            "serve.workers": "1",
            "serve.poll_interval_s": "0.1",
            "stream.retention_interval_s": "1",
            "learn.checkpoint_interval_s": "0.2",
            "learn.niceness": "0",
            **{f"learn.{key}": str(value) for key, value in LEARN.items()},
            **{f"guard.{key}": str(value) for key, value in LENIENT.items()},
            **(others or {}),
        }
        self.environment = settings_environment(overrides)
        self._worker_environment = self.environment
        self.settings = self.working = _settings(self.environment)
        self.log = open_log(self.settings)
        self.state = open_state(self.settings)
        self.ledger = Ledger(self.log, self.state)
        self.service: Child | None = None
        self._children: list[Child] = []
        self._workers: list[ForkServerProcess] = []
        self._pictures = 0
        self._heard = 0

    @property
    def url(self) -> str:
        """Of the service."""
        return f"http://127.0.0.1:{self.settings.serve.port}"

    @property
    def worker(self) -> ForkServerProcess:
        """The one that was started last."""
        return self._workers[-1]

    def start_service(self) -> Child:
        """Start it, and wait until it is ready."""
        environment = {**self.environment, **service_environment(self.settings)}
        output = self.folder / "service.log"
        self.service = Child.start("service", service_command(self.settings), environment, output)
        self._children.append(self.service)
        self.wait(self.ready, "the service is ready")
        return self.service

    def ready(self) -> bool:
        """Whether the service says so."""
        try:
            return httpx.get(self.url + "/readyz", timeout=WAIT_S).is_success
        except httpx.TransportError:
            return False

    def is_gone(self) -> bool:
        """Whether nobody takes connections to the service any more."""
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.settings.serve.port)) != 0

    def start_worker(self, others: Mapping[str, str] | None = None) -> ForkServerProcess:
        """Start a worker like the last one; with other settings, it is the one of another machine."""
        environment = {**self._worker_environment, **settings_environment(others or {})}
        self.working, self._worker_environment = _settings(environment), environment
        worker = _processes.Process(target=work, args=(self.folder, environment))
        worker.start()
        self._workers.append(worker)
        return worker

    def keep_working(self) -> None:
        """Start a worker where none runs."""
        if not self._workers or not self.worker.is_alive():
            self.start_worker()

    def doom(self, where: str, end: End = "kill") -> None:
        """Workers end at that moment from now on; see `tests.faults.moments`."""
        write_atomic(self.folder / FATE, f"{end} {where}".encode())

    def spare(self) -> None:
        """Workers end nowhere."""
        (self.folder / FATE).unlink(missing_ok=True)

    def set_clock(self, ahead_s: float) -> None:
        """The clock of workers is so far ahead from now on."""
        write_atomic(self.folder / CLOCK, str(ahead_s).encode())

    def wait_killed(self) -> None:
        """Return when the worker was killed."""
        self.wait(lambda: self.worker.exitcode == -signal.SIGKILL, "the worker was killed")

    def wait_stopped(self) -> None:
        """Return when the worker stands still."""
        self.wait(lambda: _stands_still(self.worker.pid), "the worker stands still")

    def resume(self, worker: ForkServerProcess) -> None:
        """Let a worker that stands still go on, to wherever it gets."""
        self.spare()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGCONT)

    def send(self, images: int, *, unusable: int = 0) -> tuple[Position, ...]:
        """Append images, and messages that are none; what the log acknowledged of them, each by itself."""
        acknowledged: list[Position] = []
        for number in range(images + unusable):
            self._pictures += 1
            value = draw_png(self._pictures) if number < images else b"no image"
            try:
                acknowledged += self.log.append(IMAGES, [NewMessage(f"i{self._pictures}", value)])
            except LogUnavailableError:
                continue
        return tuple(acknowledged)

    def count(self, sent: Sequence[Position]) -> Counts:
        """What has become of messages."""
        return self.ledger.count(sent, self.working)

    def listen(self) -> None:
        """`said` is what workers say from now on."""
        file = self.folder / OUTPUT
        self._heard = file.stat().st_size if file.exists() else 0

    def said(self) -> str:
        """By the workers."""
        file = self.folder / OUTPUT
        return file.read_bytes()[self._heard :].decode(errors="replace") if file.exists() else ""

    def wait(
        self, holds: Callable[[], bool], what: str, known: Callable[[], object] = lambda: ""
    ) -> None:
        """Return when it holds; AssertionError with what is known after a long time."""
        deadline = time.monotonic() + WAIT_S
        while not holds():
            if time.monotonic() > deadline:
                logs = self.folder.glob("*.log")
                said = "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
                raise AssertionError(f"not within {WAIT_S:g} s: {what}; {known()}\n{said}")
            time.sleep(STEP_S)

    def close(self) -> None:
        """End every process."""
        for worker in self._workers:
            worker.kill()
            worker.join()
        for child in self._children:
            child.stop(5)
        self.log.close()


def _settings(environment: Mapping[str, str]) -> Settings:
    with mock.patch.dict(os.environ, environment):
        return config.read()


def _stands_still(pid: int | None) -> bool:
    status = Path(f"/proc/{pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "T"
