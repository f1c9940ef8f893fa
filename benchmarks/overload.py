"""What decided how the service behaves under load, over HTTP, with `lite`: `python -m benchmarks.overload`.

Batching: services that differ only in `serve.batch_images` and `serve.batch_wait_s` stand side by side and
take turns; a ratio is to the one that does not batch, in the same run. Overload: the same service at eight
requests at once and at many times what its queue holds: what it answers still, and how long that takes. A
round: the slowest answers while the worker is in an endless round, against the same worker stopped, in turns.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.processes import Child, settings_environment, worker_command
from benchmarks.figures import Figure, percentile, publish, ratios
from benchmarks.homes import stage
from benchmarks.pictures import pictures
from benchmarks.serving import Bounds, Stretch, load, requests_of, service
from streams.message import NewMessage
from streams.sqlite import SqliteLog
from streams.topics import load_topics

CONCURRENCIES = (1, 8, 32)
MODES: dict[str, dict[str, object]] = {
    "one by one": {"batch_images": 1},
    "what waits, up to 8": {"batch_images": 8},
    "up to 8, 5 ms": {"batch_images": 8, "batch_wait_s": 0.005},
}
PLAIN = "one by one"
STEADY, QUEUE, CROWD = 8, 16, 96
CLIENTS = 2  # while a round runs
PICTURES = 64
ROUND = {
    "learn.round_images": "32",
    "learn.window_images": "64",
    "learn.passes": "100000",
    "guard.window_information": "0",  # made-up pictures are of one class
}
ROUND_STARTS_S = 120.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    runs: int
    bounds: Bounds


def hit(settings: Settings, images: Sequence[bytes], concurrency: int, bounds: Bounds) -> Stretch:
    """One stretch of load."""
    port = settings.serve.port
    return load(port, requests_of(images, port), concurrency, bounds)


def batching(home: Path, images: Sequence[bytes], scale: Scale) -> list[Figure]:
    """Requests a second and 99th percentile of each mode, as ratios."""
    found: dict[tuple[str, int], list[Stretch]] = {}
    with ExitStack() as stack:
        services = {
            name: stack.enter_context(service(home, **mode)) for name, mode in MODES.items()
        }
        for settings in services.values():
            hit(settings, images, STEADY, Bounds(scale.bounds.seconds, 50))  # warm
        for _ in range(scale.runs):
            for concurrency in CONCURRENCIES:
                for name, settings in services.items():
                    stretch = hit(settings, images, concurrency, scale.bounds)
                    found.setdefault((name, concurrency), []).append(stretch)
    figures = []
    for concurrency in CONCURRENCIES:
        plain = found[PLAIN, concurrency]
        for name in MODES:
            stretches = found[name, concurrency]
            figures += _against(f"{concurrency} at once, {name}", stretches, plain)
    return figures


def _against(name: str, stretches: Sequence[Stretch], plain: Sequence[Stretch]) -> list[Figure]:
    rates = [stretch.rate for stretch in stretches]
    if stretches is plain:
        return [Figure(f"{name}: requests", rates, "/s")]
    tails = ratios(_p99s(stretches), _p99s(plain))
    return [
        Figure(f"{name}: requests", ratios(rates, [s.rate for s in plain]), "x"),
        Figure(f"{name}: p99", tails, "x"),
    ]


def overload(home: Path, images: Sequence[bytes], scale: Scale) -> list[Figure]:
    """A queue of 16 images per process, and 96 clients who never let up."""
    calm, crowded = [], []
    with service(home, queue_images=QUEUE) as settings:
        hit(settings, images, STEADY, Bounds(scale.bounds.seconds, 50))
        for _ in range(scale.runs):
            calm.append(hit(settings, images, STEADY, scale.bounds))
            crowded.append(hit(settings, images, CROWD, Bounds(scale.bounds.seconds, 10**6)))
    name = f"{CROWD} clients, a queue of {QUEUE}"
    kept = ratios([s.rate for s in crowded], [s.rate for s in calm])
    return [
        Figure(f"{name}: answered, of {STEADY} clients", kept, "x"),
        Figure(f"{name}: p99 of the answered", _p99s(crowded), "ms"),
        Figure(f"{name}: turned away", [s.failed / s.seconds for s in crowded], "/s"),
    ]


def during_a_round(home: Path, images: Sequence[bytes], scale: Scale) -> list[Figure]:
    """The worker in a round that does not end, running and stopped in turns."""
    alone, beside = [], []
    with worker(home, images) as child, service(home) as settings:
        group = child.process.pid
        for _ in range(scale.runs):
            os.killpg(group, signal.SIGSTOP)
            alone.append(hit(settings, images, CLIENTS, scale.bounds))
            os.killpg(group, signal.SIGCONT)
            beside.append(hit(settings, images, CLIENTS, scale.bounds))
    medians = [percentile(s.latencies_ms, 0.5) for s in beside]
    return [
        Figure("no round: p99", _p99s(alone), "ms"),
        Figure("during a round: p99", ratios(_p99s(beside), _p99s(alone)), "x"),
        Figure(
            "during a round: median",
            ratios(medians, [percentile(s.latencies_ms, 0.5) for s in alone]),
            "x",
        ),
        Figure("during a round: requests", ratios(_rates(beside), _rates(alone)), "x"),
    ]


@contextmanager
def worker(home: Path, images: Sequence[bytes]) -> Iterator[Child]:
    """A worker in its round."""
    log = SqliteLog(config.read(home=home).stream_file, load_topics())
    log.append("images.unlabeled", [NewMessage(f"i{n}", data) for n, data in enumerate(images)])
    log.close()
    environment, file = settings_environment({"home": str(home), **ROUND}), home / "worker.log"
    child = Child.start("worker", worker_command(), environment, file)
    try:
        deadline = time.monotonic() + ROUND_STARTS_S
        while "round 1 starts" not in file.read_text(errors="replace"):
            if not child.running or time.monotonic() > deadline:
                raise SystemExit(f"no round started:\n{file.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield child
    finally:
        child.stop(5)


def _p99s(stretches: Sequence[Stretch]) -> list[float]:
    return [_p99(stretch) for stretch in stretches]


def _p99(stretch: Stretch) -> float:
    return percentile(stretch.latencies_ms, 0.99)


def _rates(stretches: Sequence[Stretch]) -> list[float]:
    return [stretch.rate for stretch in stretches]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; made up without")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each stretch, at most")
    parser.add_argument("--requests", type=int, default=5000, help="of each stretch, at most")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    images = pictures(args.images, PICTURES)
    scale = Scale(args.runs, Bounds(args.seconds, args.requests))
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        home = Path(folder)
        stage(home, "lite")
        figures = [*batching(home, images, scale), *overload(home, images, scale)]
        figures += during_a_round(home, images, scale)
    publish(f"under load, lite, {len(images)} JPEGs", figures, args.json)


if __name__ == "__main__":
    main()
