"""Service and worker as child processes: how they are started, watched and ended.

It knows nothing of what they do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from adaptsvc.config import NESTED, PREFIX, Settings
from adaptsvc.errors import AdaptsvcError

SERVICE = "adaptsvc.serving.service:Adaptsvc"
GRACE_S = 20.0
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it


def stop_on_signals() -> threading.Event:
    """Set by the first SIGTERM or SIGINT; the second ends the process at once, with status 1."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


def check_port(host: str, port: int) -> None:
    """Refuse an address that the service could not listen on, before anything is started.

    Raises:
        AdaptsvcError: it is taken, or none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
            probe.bind(address)
            probe.listen(1)
    except OSError as exc:
        raise AdaptsvcError(
            f"port {port} of {host}: {exc.strerror}; end what listens there, or set ADAPTSVC_SERVE__PORT "
            "and ADAPTSVC_SERVE__HOST to what is free"
        ) from exc


def end_with_parent() -> None:
    """Have this process asked to end when its parent was killed (Linux).

    The processes that answer would go on without the one that watches them, and keep its port from the next.
    One whose parent is gone already, killed while it was being started, is asked at once.
    """
    _hear_of_its_end()
    adopted = not _may_have_started_us(os.getppid())
    if PRCTL is not None and adopted:
        os.kill(os.getpid(), signal.SIGTERM)


def _hear_of_its_end() -> None:
    """Have the kernel send this process a SIGTERM when its parent is gone."""
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)


def _may_have_started_us(pid: int) -> bool:
    """Whether it is a Python of the same user, as that which starts a service's processes is; init is not."""
    process = Path(f"/proc/{pid}")
    try:
        same_user = process.stat().st_uid == os.geteuid()
        return same_user and b"python" in (process / "cmdline").read_bytes()
    except PermissionError:  # nothing can be said, and a service that ends for nothing is worse
        return True
    except OSError:  # it is gone by now
        return False


def service_command(settings: Settings) -> list[str]:
    """The command of the BentoML service."""
    host, port = settings.serve.host, settings.serve.port
    address = ["--host", host, "--port", str(port)]
    drain = ["--timeout-graceful-shutdown", str(settings.serve.drain_s)]
    return [sys.executable, "-m", "bentoml", "serve", SERVICE, *address, *drain]


def worker_command() -> list[str]:
    """The command of the worker."""
    return [sys.executable, "-m", "adaptsvc", "worker"]


def service_environment(settings: Settings) -> dict[str, str]:
    """What BentoML reads: no telemetry, its own folder under ours, no access log, our counts and limits.

    Nor does it trace: we do (`adaptsvc.tracing`), where it is asked for. Its four spans a request took a
    third of the time a request needs beside decoding and inference, and went nowhere.
    """
    service = "services.adaptsvc"
    options = f"{service}.workers={settings.serve.workers} {service}.logging.access.enabled=false"
    options += f" {service}.traffic.timeout={settings.serve.timeout_s}"
    options += f" {service}.tracing.excluded_urls=.*"
    return {
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(settings.home / "bentoml" / str(settings.serve.port)),
        "BENTOML_CONFIG_OPTIONS": options,
    }


def settings_environment(overrides: Mapping[str, str]) -> dict[str, str]:
    """Settings as the environment of a child.

    Example:
        >>> settings_environment({"serve.port": "3001"})
        {'ADAPTSVC_SERVE__PORT': '3001'}
    """
    return {PREFIX + key.replace(".", NESTED).upper(): value for key, value in overrides.items()}


@dataclass(slots=True)
class Child:
    """One child process, in a process group of its own."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes] | None

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None = None,
        *,
        tied: bool = False,
    ) -> Child:
        """Start it; its output goes to `log`, or to ours.

        A tied one is asked to end with the thread that started it, even if this process was killed (Linux).
        """
        output = None if log is None else log.open("ab")
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_hear_of_its_end if tied else None,
        )
        return cls(name, process, output)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def stop(self, grace_s: float = GRACE_S) -> int:
        """Ask it to end, insist after the grace time; the exit status."""
        if self.running:
            self.process.terminate()
        try:
            status = self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        _kill_group(self.process.pid)
        self.process.wait()
        if self.output is not None:
            self.output.close()
        return status


def stop_all(children: Sequence[Child], grace_s: float = GRACE_S) -> None:
    """End all of them, the last started first."""
    deadline = time.monotonic() + grace_s
    for child in reversed(children):
        if child.running:
            child.process.terminate()
    for child in reversed(children):
        child.stop(max(0.1, deadline - time.monotonic()))


def _kill_group(group: int) -> None:
    """Whatever the child had started and left behind."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
