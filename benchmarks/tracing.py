"""What tracing costs: `python -m benchmarks.tracing`, processor time of the service, a request.

Two real services over one home, one that traces nothing and one that traces every request and sends its
spans to a collector of this process, are asked the same pictures in turns. Processor time is that of all
processes of a service, so a busy machine blurs it less than a clock would; a difference is of neighbours.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from adaptsvc.processes import Child
from benchmarks.figures import Figure, publish, ratios
from benchmarks.homes import stage
from benchmarks.pictures import pictures
from benchmarks.serving import Bounds, load, requests_of, started
from tests.adaptsvc.tracing_bench import collecting

PICTURES, CONCURRENCY, LONGEST_S = 64, 4, 600.0
SPANS = 5  # of a request: it, and its four stages
OFF, ON = "tracing.endpoint empty", "every request traced"


def cpu_s(child: Child) -> float:
    """Processor time that a process and all below it have taken, those that ended left out."""
    ticks, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(folder.name)] = int(fields[1])
        ticks[int(folder.name)] = int(fields[11]) + int(fields[12])
    below = {child.process.pid}
    while more := {each for each, parent in parents.items() if parent in below} - below:
        below |= more
    return sum(ticks.get(each, 0) for each in below) / os.sysconf("SC_CLK_TCK")


def measure(home: Path, images: Sequence[bytes], turns: int, requests: int) -> list[Figure]:
    """Both in turns, whose order changes; milliseconds a request."""
    found: dict[str, list[float]] = {OFF: [], ON: []}
    bounds = Bounds(LONGEST_S, requests)
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        traced = {"serve.workers": "1", "tracing.endpoint": collector.endpoint}
        services = {
            OFF: stack.enter_context(started(home, {"serve.workers": "1"})),
            ON: stack.enter_context(started(home, traced)),
        }
        for turn in range(turns + 1):
            for name in (OFF, ON) if turn % 2 else (ON, OFF):
                settings, child = services[name]
                before = cpu_s(child)
                sent = requests_of(images, settings.serve.port)
                stretch = load(settings.serve.port, sent, CONCURRENCY, bounds)
                if stretch.failed:
                    raise SystemExit(f"{stretch.failed} requests failed")
                if turn:  # the first warms
                    found[name].append(1000 * (cpu_s(child) - before) / len(stretch.latencies_ms))
    wanted = SPANS * requests * (turns + 1)
    arrived = len(collector.spans)
    more = [on - off for on, off in zip(found[ON], found[OFF], strict=True)]
    return [
        *(Figure(name, values, "ms") for name, values in found.items()),
        Figure("more", more, "ms"),
        Figure("traced / not traced", ratios(found[ON], found[OFF]), "x"),
        Figure(f"spans that arrived, of {wanted}", [float(arrived)], ""),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__)
    parser.add_argument("--model", default="lite", help="or tiny-vit: hardly any inference")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--requests", type=int, default=300, help="of each turn")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        stage(Path(folder), args.model)
        images = pictures(None, PICTURES)
        figures = measure(Path(folder), images, args.turns, args.requests)
    title = f"processor time of the service, a request, {args.model}, {CONCURRENCY} at once"
    publish(title, figures, args.json)


if __name__ == "__main__":
    main()
