"""The service beside others that serve the same model: `python -m benchmarks.peers`.

All of them have the same decoder, graph, head and number of processes, answer with the same labels, and
stand on the same cores; they take turns within each run, and a ratio is of neighbours. Starlette on
uvicorn, without batching, reads the image as the body, and so does the service there. LitServe reads a
form, and so does the service there; it is measured where ``--litserve`` names a Python that has it: its
dependencies change the event loop of whatever they are installed beside.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from adaptsvc import config
from adaptsvc.processes import Child
from adaptsvc.serving.encoder import Runtime, build
from adaptsvc.versions.store import VersionStore
from benchmarks import peer_app
from benchmarks.figures import Figure, at_least, percentile, publish, ratios
from benchmarks.homes import stage
from benchmarks.pictures import pictures
from benchmarks.serving import (
    CORES,
    HOST,
    Bounds,
    Stretch,
    bare_rate,
    free_port,
    load,
    requests_of,
    service,
)

CONCURRENCIES = (8, 32)
PICTURES, READY_TIMEOUT_S = 64, 120.0
BOUNDARY = "a-boundary"
Found = dict[tuple[str, int], list[Stretch]]


def forms_of(images: Sequence[bytes], port: int) -> list[bytes]:
    """The bytes of one request per picture, as a file of a form."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n'
    part += "Content-Type: image/jpeg\r\n\r\n"
    bodies = [part.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode() for data in images]
    head = f"POST /v1/classify HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
    head += f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


@contextmanager
def other(python: str, module: str, home: Path, probe: bytes) -> Iterator[int]:
    """Another service over the home, once it answers `probe`; its port."""
    port = free_port()
    environment = {
        peer_app.HOME: str(home),
        peer_app.PORT: str(port),
        peer_app.PROCESSES: str(CORES),
    }
    log = home / f"{module}.log"
    child = Child.start(module, [python, "-m", f"benchmarks.{module}"], environment, log)
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not _answers(port, probe):
            if not child.running or time.monotonic() > deadline:
                raise SystemExit(
                    f"{module} does not answer:\n{log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.2)
        yield port
    finally:
        child.stop(5)


def _answers(port: int, probe: bytes) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.connect()
        connection.sock.sendall(probe)
        return connection.sock.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
    finally:
        connection.close()


def measure(home: Path, images: Sequence[bytes], args: argparse.Namespace) -> list[Figure]:
    """Everybody in turns."""
    bounds, found, bare = Bounds(args.seconds, args.requests), Found(), []
    store = VersionStore(config.read(home=home).store)
    encoder = build(store.base(store.manifest(0).base), {}, Runtime("cpu", 1))
    with ExitStack() as stack:
        ours = stack.enter_context(service(home)).serve.port
        peers = {
            "ours": (ours, requests_of(images, ours)),
            "ours, forms": (ours, forms_of(images, ours)),
        }
        probe = requests_of(images[:1], 0)[0]
        port = stack.enter_context(other(sys.executable, "peer_starlette", home, probe))
        peers["Starlette"] = (port, requests_of(images, port))
        if args.litserve:
            probe = forms_of(images[:1], 0)[0]
            port = stack.enter_context(other(args.litserve, "peer_litserve", home, probe))
            peers["LitServe, forms"] = (port, forms_of(images, port))
        for port, requests in peers.values():
            load(port, requests, CONCURRENCIES[0], Bounds(args.seconds, 100))  # warm
        for _ in range(args.runs):
            bare.append(bare_rate(encoder, CORES, images, args.seconds))
            for concurrency in CONCURRENCIES:
                for name, (port, requests) in peers.items():
                    stretch = load(port, requests, concurrency, bounds)
                    found.setdefault((name, concurrency), []).append(stretch)
    return figures_of(found, bare)


def figures_of(found: Found, bare: Sequence[float]) -> list[Figure]:
    """The lines of the table."""
    figures = [Figure(f"bare loop, {CORES} threads", bare, "/s")]
    for (name, concurrency), stretches in found.items():
        rates = [each.rate for each in stretches]
        who = f"{name}, {concurrency} at once"
        figures += [
            Figure(f"{who}: of the bare loop", ratios(rates, bare), "x"),
            Figure(f"{who}: p99", [percentile(s.latencies_ms, 0.99) for s in stretches], "ms"),
            Figure(f"{who}: failed", [float(s.failed) for s in stretches], ""),
        ]
    for ours, theirs in (("ours", "Starlette"), ("ours, forms", "LitServe, forms")):
        for concurrency in CONCURRENCIES:
            if (theirs, concurrency) in found:
                pair = [[each.rate for each in found[name, concurrency]] for name in (ours, theirs)]
                name = f"{ours} / {theirs}, {concurrency} at once"
                figures.append(Figure(name, ratios(*pair), "x", at_least(1.0)))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; made up without")
    parser.add_argument(
        "--litserve", help="a Python that has litserve beside what the service needs"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each stretch, at most")
    parser.add_argument("--requests", type=int, default=5000, help="of each stretch, at most")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    images = pictures(args.images, PICTURES)
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        home = Path(folder)
        stage(home, "lite")
        figures = measure(home, images, args)
    publish(f"beside others, lite, {len(images)} JPEGs", figures, args.json)


if __name__ == "__main__":
    main()
