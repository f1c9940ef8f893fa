"""Broken pictures against the decoder: `python -m benchmarks.fuzz`.

Each is decoded as the service does, with warnings as errors. It becomes pixels or an `ImageError`; anything
else, a case that ends otherwise than it should, and any socket, process or file that decoding opens, is a
failure and makes the exit status 1. The cases are those of `benchmarks.broken_pictures`: odd files one by
one, every sound file cut before each of its bytes, and so many random edits. Then the heaviest files that the
default caps let in, each in a process of its own: CPU time and peak memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from adaptsvc.errors import ImageError
from adaptsvc.images import ImageLimits, Preprocess, decode
from benchmarks import memory
from benchmarks.broken_pictures import Case, cases, heavy, mutated, truncated
from benchmarks.figures import Figure, at_most, publish

PREPROCESS = Preprocess(32, "shortest", "bicubic", (0.5,) * 3, (0.5,) * 3)
SMALL = ImageLimits(max_pixels=1_000_000, max_side=16_384)  # a mutation may say that it is large
WATCHED = ("socket.", "subprocess.", "os.system", "os.exec", "urllib.", "http.")


@dataclass(slots=True)
class Row:
    """What became of the cases of one kind."""

    cases: int = 0
    decoded: int = 0
    refused: int = 0
    slowest_ms: float = 0.0


class Watch:
    """Notes what is opened while it is on: an audit hook, which cannot be taken away again."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (event == "open" or event.startswith(WATCHED)):
            self.seen.append(f"{event} {arguments!r}"[:200])


def outcome(case: Case, limits: ImageLimits) -> str:
    """`decoded`, `refused`, or what else came of it, which is a failure."""
    try:
        pixels = decode(case.data, PREPROCESS, limits)
    except ImageError:
        found = "refused"
    except Exception as exc:  # that is what is looked for
        return f"{case.kind}, {case.name}: {exc!r}"
    else:
        found = "decoded" if pixels.shape == (3, PREPROCESS.size, PREPROCESS.size) else "odd"
    wrong = found == "odd" or case.expected not in (found, "either")
    return f"{case.kind}, {case.name}: {found}, expected {case.expected}" if wrong else found


def run(all_cases: Iterable[Case], watch: Watch) -> tuple[dict[str, Row], list[str]]:
    """The table, and the failures."""
    rows: dict[str, Row] = defaultdict(Row)
    failures: list[str] = []
    for case in all_cases:
        limits = SMALL if case.kind == "mutated" else ImageLimits()
        started, watch.on = time.process_time(), True
        found = outcome(case, limits)
        watch.on = False
        row = rows[case.kind]
        row.cases += 1
        row.slowest_ms = max(row.slowest_ms, 1000 * (time.process_time() - started))
        if found == "decoded":
            row.decoded += 1
        elif found == "refused":
            row.refused += 1
        else:
            failures.append(found)
        failures += [f"{case.kind}, {case.name}: {event}" for event in watch.seen]
        watch.seen.clear()
    return rows, failures


def cost(number: int) -> tuple[str, str, float, float]:
    """Name, outcome, CPU seconds and peak MiB of one of the heavy files."""
    case = list(heavy())[number]
    outcome(next(cases()), ImageLimits())  # loads what is loaded once
    before = memory.settle()
    memory.reset_peak()
    started = time.process_time()
    found = outcome(case, ImageLimits())
    return case.name, found, time.process_time() - started, memory.peak_mib() - before


def main(arguments: Sequence[str] | None = None) -> None:
    """Decode all and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    warnings.simplefilter("error")
    for case in cases():  # modules that decoding loads are files too
        outcome(case, ImageLimits())
    every = chain(cases(), truncated(), mutated(args.mutations, args.seed))
    rows, failures = run(every, Watch())
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        costs = [pool.submit(cost, n).result() for n in range(len(list(heavy())))]
    failures += [f"{name}: {found}" for name, found, *_ in costs if " " in found]
    figures = [Figure("failures", [float(len(failures))], "", at_most(0))]
    for kind, row in rows.items():
        name = f"{kind}: {row.cases}, {row.decoded} decoded, {row.refused} refused; slowest"
        figures.append(Figure(name, [row.slowest_ms], "ms"))
    for name, found, seconds, mib in costs:
        figures += [
            Figure(f"{name}, {found}: CPU", [seconds], "s"),
            Figure(f"{name}: more RSS at the peak", [mib], "MiB"),
        ]
    publish("broken pictures", figures, args.json)
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
