"""Whether rounds leak: RSS of a real worker after each of many small rounds, in this process.

`python -m benchmarks.worker_memory`: the worker as `adaptsvc worker` builds it, over a SQLite log in a
temporary home, with small rounds so that many fit in minutes. The slope is a least-squares line through
the rounds after the first few, which fill caches and the window. The peak is the highest RSS inside a round:
what a step needs is kept until the round is over (see adaptsvc.memory), and grows with `--batch-images`.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from adaptsvc import config
from adaptsvc.bootstrap import build_worker
from adaptsvc.config import Settings
from adaptsvc.metrics import Observer
from adaptsvc.streaming import IMAGES, open_log
from adaptsvc.worker import Worker
from benchmarks.figures import Figure, at_most, publish
from benchmarks.memory import peak_mib, reset_peak, resident_mib, settle
from benchmarks.pictures import pictures
from streams.message import NewMessage

SETTLING_ROUNDS = 10
PICTURES = 64
THREADS = 1  # a busy machine slows two that wait for each other many times over
TURNS = 200  # of the loop, for one round
SURE = 2.0  # standard errors


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a round, in images."""

    round: int = 16
    window: int = 32
    batch: int = 8


@dataclass(slots=True)
class Notes:
    """Of each round RSS after it, at its peak, and how it ended; at the end RSS with freed pages gone."""

    resident: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    settled: float = 0.0


def small(home: Path, sizes: Sizes) -> Settings:
    """Settings of small rounds."""
    return config.read(
        home=home,
        log_level="WARNING",
        learn={
            "round_images": sizes.round,
            "window_images": sizes.window,
            "batch_images": sizes.batch,
            "passes": 1.0,
            "threads": THREADS,
        },
        guard={
            "window_information": 0.0,
            "class_kept": 0.0,
        },  # the pictures show nothing: learn all the same
    )


def one_round(worker: Worker) -> str:
    """Turn the loop until a round is over; how it ended."""
    for _ in range(TURNS):
        done = worker.run_once(time.time()).round
        if done is not None:
            return done.outcome
    raise SystemExit("no round came about; is the stream empty, or did the round fail?")


def run(home: Path, rounds: int, sizes: Sizes) -> Notes:
    """So many rounds."""
    settings = small(home, sizes)
    stream, images = open_log(settings), pictures(None, PICTURES)
    worker = build_worker(settings, Observer(), threading.Event())
    worker.restore()
    notes = Notes()
    for number in range(rounds):
        first = number * sizes.round
        names = range(first, first + sizes.round)
        new = [NewMessage(f"image-{name}", images[name % PICTURES]) for name in names]
        stream.append(IMAGES, new)
        reset_peak()
        notes.outcomes[one_round(worker)] += 1
        notes.peak.append(peak_mib())
        notes.resident.append(resident_mib())
    stream.close()
    notes.settled = settle()
    return notes


def slope(values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope per step, and its standard error.

    Example:
        >>> slope([1.0, 3.0, 5.0, 7.0])
        (2.0, 0.0)
    """
    steps = np.arange(len(values)) - (len(values) - 1) / 2
    centred = np.asarray(values) - np.mean(values)
    spread = float(steps @ steps)
    found = float(steps @ centred) / spread
    residuals = centred - found * steps
    error = float(np.sqrt(residuals @ residuals / (len(values) - 2) / spread))
    return found, error


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker_memory", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    for name, default in asdict(Sizes()).items():
        parser.add_argument(f"--{name}-images", type=int, default=default)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    if args.rounds < SETTLING_ROUNDS + 3:
        parser.error(f"--rounds is {args.rounds}; expected at least {SETTLING_ROUNDS + 3}")
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        sizes = Sizes(args.round_images, args.window_images, args.batch_images)
        notes = run(Path(folder), args.rounds, sizes)
    resident = notes.resident
    rise, error = slope(resident[SETTLING_ROUNDS:])
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(notes.outcomes.items()))
    flat = at_most(SURE * error)
    figures = [
        Figure("RSS after the first round", resident[:1], "MiB"),
        Figure(f"RSS after round {SETTLING_ROUNDS}", resident[SETTLING_ROUNDS - 1 :][:1], "MiB"),
        Figure(f"RSS after round {args.rounds}", resident[-1:], "MiB"),
        Figure("highest RSS inside a round", notes.peak, "MiB"),
        Figure("RSS at the end, freed pages handed back", [notes.settled], "MiB"),
        Figure(
            f"RSS after rounds {SETTLING_ROUNDS + 1} to {args.rounds}",
            resident[SETTLING_ROUNDS:],
            "MiB",
        ),
        Figure("slope over those", [rise], "MiB/round", flat),
        Figure("its standard error", [error], "MiB/round"),
    ]
    publish(f"memory of the worker, {args.rounds} rounds ({ended})", figures, args.json)


if __name__ == "__main__":
    main()
