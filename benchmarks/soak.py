"""Everything at once for a while: `python -m benchmarks.soak --minutes 10`.

The real service with two processes and a real worker on one machine, with `lite`. Clients ask without a
pause; of what they send a share goes to the stream, the worker learns from it, publishes, and the service
swaps; every minute somebody goes back to zero-shot by hand, and the next round takes over again.
Counted are failed requests, versions that answered, rounds, errors in the logs; memory is that of the
processes from after their start to the end. With `--boards` a Prometheus watches, which takes its share of
the cores, and the dashboards are drawn.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from adaptsvc.processes import Child, settings_environment, worker_command
from benchmarks.boards import draw_all
from benchmarks.figures import Figure, at_most, publish
from benchmarks.homes import stage
from benchmarks.observed import prometheus
from benchmarks.pictures import pictures
from benchmarks.serving import HOST, free_port, requests_of, started
from benchmarks.timeline import NO_VERSION, Client, draw, failed, latency_ms

PICTURES, TICK_S, SETTLED_S = 256, 5.0, 60.0
BACK_EVERY_S = 60.0
SERVE = {"serve.poll_interval_s": "0.5", "sample.fraction": "1", "sample.per_second": "16"}
WORK = {
    "learn.round_images": "64",
    "learn.window_images": "64",
    "learn.passes": "1",
    "guard.window_information": "0",  # made-up pictures are of one class
    "guard.agreement": "0",
    "guard.marginal_entropy_kept": "0",
}
TROUBLE = re.compile(r"\b(ERROR|CRITICAL)\b|Traceback")
MIB = 2**20
BOARDS = ("serving", "learning")


@dataclass(frozen=True, slots=True)
class System:
    """A service and a worker that run, and clients that ask without a pause.

    Attributes:
        home: with their logs.
        ports: by the names of their jobs in Prometheus.
    """

    home: Path
    ports: dict[str, int]
    service: Child
    worker: Child
    client: Client


@dataclass(frozen=True, slots=True)
class Course:
    """How long it takes, and what happens meanwhile.

    Attributes:
        seconds: at least.
        back_every_s: how often somebody goes back to zero-shot.
        enough: asked every few seconds once they are over; False goes on.
    """

    seconds: float
    back_every_s: float = BACK_EVERY_S
    enough: Callable[[], bool] = lambda: True


@dataclass(slots=True)
class Notes:
    """What was seen from outside, every few seconds."""

    memory_mib: dict[str, list[float]] = field(default_factory=dict)
    swaps_s: list[float] = field(default_factory=list)
    back: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What it came to.

    Attributes:
        versions: that answered.
        promoted: rounds that ended in a version.
        trouble: lines of it in each log, by process.
    """

    requests: int
    failed: int
    versions: frozenset[int]
    promoted: int
    trouble: dict[str, int]


@contextmanager
def running(
    home: Path, images: Sequence[bytes], clients: int, overrides: Mapping[str, str]
) -> Iterator[System]:
    """Everything at once over a staged home, until the end of the block."""
    with started(home, {**SERVE, **overrides}) as (settings, service):
        port, metrics_port = settings.serve.port, free_port()
        own = {"home": str(home), "learn.metrics_port": str(metrics_port), **WORK, **overrides}
        worker = Child.start(
            "worker", worker_command(), settings_environment(own), home / "worker.log"
        )
        ports = {"service": port, "worker": metrics_port}
        client = Client(port, requests_of(images, port), clients)
        try:
            with client.running():
                yield System(home, ports, service, worker, client)
        finally:
            worker.stop()


def watch(system: System, course: Course) -> Notes:
    """Note memory, and go back to zero-shot now and then."""
    notes, serving, next_back_s = Notes(), 0, course.back_every_s
    client, children = system.client, {"service": system.service, "worker": system.worker}
    with httpx.Client(base_url=f"http://{HOST}:{client.port}", timeout=30) as asking:
        while (now_s := client.now_s()) < course.seconds or not course.enough():
            for name, child in children.items():
                notes.memory_mib.setdefault(name, []).append(_resident_mib(child))
            version = asking.get("/v1/model").raise_for_status().json()["model_version"]
            if version != serving:
                serving = version
                notes.swaps_s.append(client.now_s())
            if now_s >= next_back_s:
                next_back_s += course.back_every_s
                asking.post("/v1/versions/0/activate").raise_for_status()
                notes.back += 1
            time.sleep(TICK_S)
    return notes


def seen(system: System) -> Seen:
    """What it came to so far."""
    answers = list(system.client.answers)
    logs = {
        name: (system.home / f"{name}.log").read_text(errors="replace")
        for name in ("service", "worker")
    }
    return Seen(
        requests=len(answers),
        failed=failed(answers),
        versions=frozenset(each.version for each in answers) - {NO_VERSION},
        promoted=logs["worker"].count("promoted"),
        trouble={name: len(TROUBLE.findall(text)) for name, text in logs.items()},
    )


def _resident_mib(child: Child) -> float:
    """Of a process and all that it started."""
    head = psutil.Process(child.process.pid)
    family = [head, *head.children(recursive=True)]
    return float(sum(each.memory_info().rss for each in family)) / MIB


def figures_of(system: System, notes: Notes) -> list[Figure]:
    """The lines of the table."""
    client, found = system.client, seen(system)
    minutes = range(max(1, int(client.answers[-1].at_s // 60)))
    each_minute = [client.between(60 * minute, 60 * minute + 60) for minute in minutes]
    figures = [
        Figure("requests", [float(found.requests)], ""),
        Figure("failed", [float(found.failed)], "", at_most(0)),
        Figure("versions that answered", [float(len(found.versions))], ""),
        Figure("rounds that ended in a version", [float(found.promoted)], ""),
        Figure("back to zero-shot by hand", [float(notes.back)], ""),
        *(
            Figure(f"lines of trouble, {name}", [float(lines)], "", at_most(0))
            for name, lines in found.trouble.items()
        ),
        Figure("median, by minute", [latency_ms(a, 0.5) for a in each_minute], "ms"),
        Figure("p99, by minute", [latency_ms(a, 0.99) for a in each_minute], "ms"),
    ]
    for name, values in notes.memory_mib.items():
        settled = min(int(SETTLED_S / TICK_S), len(values) - 1)
        figures += [
            Figure(f"RSS of the {name}, after a minute", values[settled : settled + 3], "MiB"),
            Figure(f"RSS of the {name}, at the end", values[-3:], "MiB"),
        ]
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, count and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; made up without")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--png", type=Path, help="draw latency over time there")
    parser.add_argument("--boards", type=Path, help="folder to draw the dashboards into")
    args = parser.parse_args(arguments)
    images = pictures(args.images, PICTURES)
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder, ExitStack() as stack:
        home = Path(folder)
        stage(home, "lite")
        system = stack.enter_context(running(home, images, args.clients, {}))
        client = system.client
        if args.boards is not None:
            watching = stack.enter_context(prometheus(home / "prometheus", system.ports))
        notes = watch(system, Course(60 * args.minutes))
        figures = figures_of(system, notes)
        if args.boards is not None:
            args.boards.mkdir(parents=True, exist_ok=True)
            files = {name: args.boards / f"board_{name}.png" for name in BOARDS}
            draw_all(watching, client.now_s(), files)
    if args.png is not None:
        title = f"{args.minutes:g} minutes of {args.clients} clients, rounds and swaps"
        draw([a for a in client.answers if not a.why], notes.swaps_s, title, args.png)
    publish("a soak: requests, rounds, swaps", figures, args.json)


if __name__ == "__main__":
    main()
