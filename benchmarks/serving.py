"""Throughput over HTTP against the bare loop inside it: `python -m benchmarks.serving`.

The service is the real one, started as `adaptsvc up` starts it, on loopback, with `lite`. The bare loop
does what no service can save, decoding (our decoder) and ONNX Runtime, in threads of this process: one per
core with a thread each inside the runtime (one with all cores inside does two thirds of that). At
concurrency 1 the service can use one core, so there it is held against one bare thread.

The client shares the cores with the service, so it is a bare one: keep-alive sockets and `select`,
requests made up in advance, answers not parsed beyond status and length. What CPU it takes is in the table.
Service and bare loop take turns, and a ratio is of neighbours: each stretch of requests is held against the
mean of the bare loops just before and after it, for the machine is not equally fast for long. A latency has
no others to average with, so there stretches are shorter, and more.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from unittest.mock import patch

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.images import ImageLimits, decode
from adaptsvc.processes import Child, service_command, service_environment, settings_environment
from adaptsvc.serving.encoder import Encoder, Runtime, build
from adaptsvc.versions.store import VersionStore
from benchmarks.figures import Figure, Target, at_least, at_most, percentile, publish, ratios
from benchmarks.homes import stage
from benchmarks.pictures import pictures

CONCURRENCIES = (1, 8, 32)
THROUGHPUT_RATIO, LATENCY_RATIO = 0.9, 1.25  # wanted with several requests at once, and with one
PICTURES = 64
SHORTER = 5  # times, are the stretches of one request at a time
READY_TIMEOUT_S, REPLY_TIMEOUT_S = 60.0, 30.0
HOST = "127.0.0.1"
HEADERS_END, LENGTH, FINE = b"\r\n\r\n", b"content-length:", b"HTTP/1.1 200"
READ_BYTES, END = 65536, b"\0closed"
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one stretch of load came to; a failed request is not among the latencies."""

    seconds: float
    latencies_ms: list[float]
    failed: int
    client_cpu_s: float

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def client_ms(self) -> float:
        """The client's CPU time per answered request."""
        return 1000 * self.client_cpu_s / max(1, len(self.latencies_ms))


@dataclass(frozen=True, slots=True)
class Run:
    """The service in one stretch, and the pictures per second of the bare loop around it."""

    bare: float
    service: Stretch


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a stretch ends, whichever comes first."""

    seconds: float
    requests: int


def bare_rate(encoder: Encoder, threads: int, images: Sequence[bytes], seconds: float) -> float:
    """Pictures per second of so many threads that decode and embed, one picture at a time."""
    limits, stop = ImageLimits(), threading.Event()

    def loop(first: int) -> int:
        done = 0
        while not stop.is_set():
            data = images[(first + done) % len(images)]
            encoder.embed(decode(data, encoder.base.preprocess, limits)[None])
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        loops = [pool.submit(loop, 7 * number) for number in range(threads)]
        time.sleep(seconds)
        stop.set()
        return sum(each.result() for each in loops) / (time.perf_counter() - started)


def load(port: int, requests: Sequence[bytes], concurrency: int, bounds: Bounds) -> Stretch:
    """So many connections, each with one request on its way at any time."""
    latencies: list[float] = []
    turn = iter(range(bounds.requests))
    cpu, started = time.process_time(), time.perf_counter()
    with ExitStack() as stack, DefaultSelector() as ready:
        for _ in range(concurrency):
            connection = stack.enter_context(socket.create_connection((HOST, port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(connection, EVENT_READ, Asked(connection, requests, turn))
        failed, waiting = 0, concurrency
        while waiting and (found := ready.select(REPLY_TIMEOUT_S)):
            for asked in (key.data for key, _ in found):
                if not asked.receive():
                    continue
                now = time.perf_counter()
                if asked.is_fine:
                    latencies.append(1000 * (now - asked.sent_s))
                else:
                    failed += 1
                if asked.is_closed or now - started > bounds.seconds or not asked.send():
                    ready.unregister(asked.connection)
                    waiting -= 1
    seconds = time.perf_counter() - started
    return Stretch(seconds, latencies, failed + waiting, time.process_time() - cpu)


class Asked:
    """A connection with a request on its way."""

    def __init__(
        self, connection: socket.socket, requests: Sequence[bytes], turn: Iterator[int]
    ) -> None:
        self.connection, self._requests, self._turn = connection, requests, turn
        self.sent_s, self._answer = 0.0, b""
        self.send()

    def send(self) -> bool:
        """Send the next request, if there is one."""
        if (number := next(self._turn, None)) is None:
            return False
        self._answer, self.sent_s = b"", time.perf_counter()
        self.connection.sendall(self._requests[number % len(self._requests)])
        return True

    def receive(self) -> bool:
        """Read what came; whether the answer is complete, or there will be none."""
        try:
            part = self.connection.recv(READ_BYTES)
        except OSError:
            part = b""
        self._answer += part if part else END
        head, ended, body = self._answer.partition(HEADERS_END)
        length = head.lower().partition(LENGTH)[2].partition(b"\r\n")[0]
        return not part or (bool(ended) and len(body) >= int(length))

    @property
    def is_closed(self) -> bool:
        """Whether there will be no more answers."""
        return self._answer.endswith(END)

    @property
    def is_fine(self) -> bool:
        """Whether it was answered with a 200, to the end."""
        return self._answer.startswith(FINE) and not self.is_closed


def requests_of(images: Sequence[bytes], port: int) -> list[bytes]:
    """The bytes of one request per picture."""
    head = f"POST /v1/classify HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: image/jpeg\r\n"
    return [f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data for data in images]


@contextmanager
def service(home: Path, **serve: object) -> Iterator[Settings]:
    """The service over a staged home, ready, with these settings of `serve`."""
    with started(home, {f"serve.{key}": str(value) for key, value in serve.items()}) as (
        settings,
        _,
    ):
        yield settings


@contextmanager
def started(home: Path, overrides: Mapping[str, str]) -> Iterator[tuple[Settings, Child]]:
    """The service, ready, and its process, whose log is ``service.log``."""
    own = settings_environment({**overrides, "home": str(home), "serve.port": str(free_port())})
    with patch.dict(os.environ, own):
        settings = config.read()
    environment = {**own, **service_environment(settings)}
    child = Child.start("service", service_command(settings), environment, home / "service.log")
    try:
        _wait(child, settings)
        yield settings, child
    finally:
        child.stop()


def _wait(child: Child, settings: Settings) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if not child.running:
            break
        with closing(HTTPConnection(HOST, settings.serve.port, timeout=5)) as connection:
            try:
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
        time.sleep(0.2)
    words = (settings.home / "service.log").read_text(errors="replace")[-2000:]
    raise SystemExit(f"the service did not become ready; its last words:\n{words}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def measure(home: Path, images: Sequence[bytes], runs: int, bounds: Bounds) -> dict[int, list[Run]]:
    """Bare loop and service in turns: runs by concurrency."""
    store = VersionStore(config.read(home=home).store)
    encoder = build(store.base(store.manifest(0).base), {}, Runtime("cpu", 1))
    found: dict[int, list[Run]] = {concurrency: [] for concurrency in CONCURRENCIES}
    with service(home) as settings:
        port = settings.serve.port
        requests = requests_of(images, port)
        load(port, requests, max(CONCURRENCIES), Bounds(bounds.seconds, 100))  # warm
        for _ in range(runs):
            for concurrency in (*[1] * SHORTER, *CONCURRENCIES[1:]):
                seconds = bounds.seconds / (SHORTER if concurrency == 1 else 1)
                threads = min(concurrency, CORES)
                before = bare_rate(encoder, threads, images, seconds)
                served = load(port, requests, concurrency, Bounds(seconds, bounds.requests))
                after = bare_rate(encoder, threads, images, seconds)
                found[concurrency].append(Run((before + after) / 2, served))
    return found


def figures_of(found: Mapping[int, Sequence[Run]]) -> list[Figure]:
    """The lines of the table."""
    figures = []
    for concurrency, runs in found.items():
        bare, stretches = [run.bare for run in runs], [run.service for run in runs]
        rates = [stretch.rate for stretch in stretches]
        medians = [percentile(stretch.latencies_ms, 0.5) for stretch in stretches]
        target: Target | None = at_least(THROUGHPUT_RATIO) if concurrency > 1 else None
        threads = min(concurrency, CORES)
        name = f"HTTP, {concurrency} at once"
        figures += [
            Figure(f"around {concurrency} at once: bare, threads: {threads}", bare, "/s"),
            Figure(f"{name}: requests", rates, "/s"),
            Figure(f"{name}: of the bare loop", ratios(rates, bare), "x", target),
            Figure(f"{name}: median", medians, "ms"),
            Figure(f"{name}: p99", [percentile(s.latencies_ms, 0.99) for s in stretches], "ms"),
            Figure(f"{name}: failed", [float(s.failed) for s in stretches], "", at_most(0)),
            Figure(f"{name}: CPU of the client", [s.client_ms for s in stretches], "ms"),
        ]
        if concurrency == 1:
            slower = [ms * rate / 1000 for ms, rate in zip(medians, bare, strict=True)]
            of_bare = f"{name}: median, of a picture's time in the bare loop"
            figures.append(Figure(of_bare, slower, "x", at_most(LATENCY_RATIO)))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; made up without")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each stretch, at most")
    parser.add_argument("--requests", type=int, default=5000, help="of each stretch, at most")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    images = pictures(args.images, PICTURES)
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        home = Path(folder)
        stage(home, "lite")
        runs = measure(home, images, args.runs, Bounds(args.seconds, args.requests))
    size_kb = sum(map(len, images)) / len(images) / 1000
    title = f"classify over HTTP, lite, {len(images)} JPEGs of {size_kb:.0f} kB"
    publish(title, figures_of(runs), args.json)


if __name__ == "__main__":
    main()
