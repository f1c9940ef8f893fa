"""A new version taking over, through the real `Live`: `python -m benchmarks.swap`.

For each model (``vit``: ViT-B-32 with random weights, its delta is fed; ``lite``: its delta needs a second
session): how long a moved pointer takes to serve, what memory that needs and keeps, how the slowest
requests of two clients fare while a version a second takes over, and what keeping the norm parameters
swappable costs per request against the graph torch exports by default, which folds them away. Every part
runs in a fresh process without torch; requests are in-process and carry no decoding.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import onnxruntime

from adaptsvc import config
from adaptsvc.images import normalise
from adaptsvc.metrics import Observer
from adaptsvc.serving.encoder import PROVIDERS, Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.serving.live import Live
from adaptsvc.serving.predictor import Predictor
from adaptsvc.types import Float32, UInt8
from adaptsvc.versions.base import Base
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.store import VersionStore
from benchmarks import memory
from benchmarks.figures import Figure, at_least, at_most, percentile, publish, ratios
from benchmarks.homes import FOLDED, stage

VERSIONS = 4
CLIENTS, SWAP_EVERY_S, POLL_INTERVAL_S = 2, 1.0, 0.5
BATCHES = (1, 8)
SAME = 1e-3
READY_MS = {"vit": 20.0, "lite": 500.0}
P99_RATIO = {"vit": 1.2, "lite": 1.5}
EXTRA_MIB, SPEED_RATIO = 10.0, 0.9
T = TypeVar("T")
Embed: TypeAlias = Callable[[UInt8], Float32]


@dataclass(frozen=True, slots=True)
class Load:
    """How much is measured."""

    runs: int
    swaps: int
    seconds: float
    images: int


class Swaps(Observer):
    """Notes how long each swap took, in milliseconds."""

    def __init__(self) -> None:
        self.ready_ms: list[float] = []

    def swapped(self, version: int, seconds: float) -> None:
        """Another version serves."""
        self.ready_ms.append(1000 * seconds)


class Stand:
    """A `Live` over a staged home, and the pointer it follows."""

    def __init__(self, home: Path, observer: Observer) -> None:
        settings = config.read(home=home)
        self.pointer = FilePointer(settings.pointer)
        store = VersionStore(settings.store)
        self.live = Live(store, self.pointer, Runtime(), observer=observer)
        self._versions = cycle(range(1, VERSIONS + 1))
        self.moved = 0
        self.live.poll()

    @property
    def predictor(self) -> Predictor:
        """What serves now."""
        if self.live.current is None or self.live.refusal is not None:
            raise SystemExit(f"nothing to measure: {self.live.refusal}")
        return self.live.current

    def move(self) -> None:
        """Point to another version."""
        self.pointer.force(next(self._versions))
        self.moved += 1

    def answer(self, pixels: UInt8) -> None:
        """One request."""
        self.predictor.answer(pixels, 5)


class Folded:
    """The default export on ONNX Runtime, called as our encoder is."""

    def __init__(self, graph: Path, base: Base) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = Runtime().threads
        providers = [PROVIDERS["cpu"]]
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
        self._preprocess = base.preprocess

    def embed(self, pixels: UInt8) -> Float32:
        """Unit embeddings (N, D) of images (N, 3, H, W)."""
        feeds = {"images": normalise(pixels, self._preprocess)}
        embeddings: Float32 = self._session.run(["embeddings"], feeds)[0]
        return embeddings


def swap_costs(home: Path, name: str, load: Load) -> list[Figure]:
    """Time and memory of swaps with nothing else going on but a request after each."""
    swaps = Swaps()
    stand = Stand(home, swaps)
    pixels = pixels_of(stand.predictor, 1)
    for _ in range(20):
        stand.answer(pixels)
    before = memory.settle()
    extra, kept = [], []
    for _ in range(load.swaps):
        stand.move()
        memory.reset_peak()
        stand.live.poll()
        extra.append(memory.peak_mib() - before)
        stand.answer(pixels)
        stand.live.poll()  # the service's next look, at which freed pages go back
        kept.append(memory.resident_mib() - before)
    limit = at_most(EXTRA_MIB)
    return [
        Figure(f"{name}: ready", swaps.ready_ms[1:], "ms", at_most(READY_MS[name])),
        Figure(f"{name}: RSS before", [before], "MiB"),
        Figure(
            f"{name}: more RSS at the peak of a swap", extra, "MiB", _only(name == "vit", limit)
        ),
        Figure(f"{name}: more RSS after the first swap", kept[:1], "MiB"),
        Figure(f"{name}: more RSS after {load.swaps} swaps", kept[-1:], "MiB", limit),
    ]


def request_costs(home: Path, name: str, load: Load) -> list[Figure]:
    """Slowest requests of two clients, with the pointer at rest and with it moving once a second."""
    swaps = Swaps()
    stand = Stand(home, swaps)
    stop = threading.Event()
    follower = threading.Thread(target=stand.live.follow, args=(stop, POLL_INTERVAL_S))
    follower.start()
    steady, swapping, taken = [], [], []
    try:
        for _ in range(load.runs):
            steady.append(_latencies(stand, load.seconds, lambda: None))
            moved, swapped = stand.moved, len(swaps.ready_ms)
            swapping.append(_latencies(stand, load.seconds, stand.move))
            taken.append((len(swaps.ready_ms) - swapped) / max(1, stand.moved - moved))
    finally:
        stop.set()
        follower.join()
    calm = [percentile(times, 0.99) for times in steady]
    moving = [percentile(times, 0.99) for times in swapping]
    return [
        Figure(f"{name}: median request, steady", [percentile(t, 0.5) for t in steady], "ms"),
        Figure(f"{name}: median request, swapping", [percentile(t, 0.5) for t in swapping], "ms"),
        Figure(f"{name}: p99 request, steady", calm, "ms"),
        Figure(f"{name}: p99 request, a swap a second", moving, "ms"),
        Figure(
            f"{name}: p99 swapping / steady", ratios(moving, calm), "x", at_most(P99_RATIO[name])
        ),
        Figure(f"{name}: swaps done / pointer moves", taken, "x"),
        Figure(f"{name}: ready, both cores busy", swaps.ready_ms[1:], "ms"),
    ]


def _latencies(stand: Stand, seconds: float, each_interval: Callable[[], None]) -> list[float]:
    """Milliseconds of every request of the clients, for so many seconds."""
    stop = threading.Event()

    def client(seed: int) -> list[float]:
        pixels, times = pixels_of(stand.predictor, 1, seed), []
        while not stop.is_set():
            started = time.perf_counter()
            stand.answer(pixels)
            times.append(1000 * (time.perf_counter() - started))
        return times

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, seed) for seed in range(CLIENTS)]
        ends = time.monotonic() + seconds
        while (left_s := ends - time.monotonic()) > SWAP_EVERY_S:
            time.sleep(SWAP_EVERY_S)
            each_interval()
        time.sleep(max(0.0, left_s))
        stop.set()
        return [value for each in clients for value in each.result()]


def graph_costs(home: Path, name: str, load: Load) -> list[Figure]:
    """Our graph with a delta in place against the default export, call by call."""
    stand = Stand(home, Observer())
    base = stand.predictor.base
    plain = build_encoder(base, {}, Runtime())
    folded = Folded(home / FOLDED, base)
    stand.move()
    stand.live.poll()
    ours = stand.predictor.encoder
    figures = []
    for size in BATCHES:
        pixels = pixels_of(stand.predictor, size)
        if not np.abs(plain.embed(pixels) - folded.embed(pixels)).max() <= SAME:
            raise SystemExit(f"{name}: the two graphs do not compute the same")
        passes = [
            _alternate(ours.embed, folded.embed, pixels, load.images // size)
            for _ in range(load.runs)
        ]
        our_ms, folded_ms = [each[0] for each in passes], [each[1] for each in passes]
        speed, target = ratios(folded_ms, our_ms), at_least(SPEED_RATIO)
        figures += [
            Figure(f"{name}: batch {size}, default export", folded_ms, "ms"),
            Figure(f"{name}: batch {size}, ours with a delta", our_ms, "ms"),
            Figure(f"{name}: batch {size}, speed ours / default", speed, "x", target),
        ]
    return figures


def _alternate(first: Embed, second: Embed, pixels: UInt8, calls: int) -> list[float]:
    """Median milliseconds of each, taking turns call by call."""
    times: list[list[float]] = [[], []]
    for _ in range(max(3, calls)):
        for turn, embed in enumerate((first, second)):
            started = time.perf_counter()
            embed(pixels)
            times[turn].append(1000 * (time.perf_counter() - started))
    return [percentile(each, 0.5) for each in times]


def pixels_of(predictor: Predictor, images: int, seed: int = 0) -> UInt8:
    """Random images (N, 3, H, W) as a predictor takes them."""
    size = predictor.base.preprocess.size
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (images, 3, size, size), dtype=np.uint8)


def _only(wanted: bool, value: T) -> T | None:
    return value if wanted else None


def measure(name: str, load: Load) -> list[Figure]:
    """Every part for one model, each in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        home = Path(folder)
        stage(home, name, versions=VERSIONS, folded=True)
        with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
            parts = [
                pool.submit(part, home, name, load).result()
                for part in (swap_costs, request_costs, graph_costs)
            ]
    return [figure for part in parts for figure in part]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=tuple(READY_MS), default=list(READY_MS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stretch of requests")
    parser.add_argument("--images", type=int, default=80, help="of each pass over a graph")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    load = Load(args.runs, args.swaps, args.seconds, args.images)
    figures = [figure for name in args.models for figure in measure(name, load)]
    publish("swapping versions", figures, args.json)


if __name__ == "__main__":
    main()
