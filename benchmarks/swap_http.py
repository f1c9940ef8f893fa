"""What clients notice of swaps, over HTTP: `python -m benchmarks.swap_http`.

The real service with two processes, kept busy by clients without a pause. The pointer rests for a stretch,
then moves once a second for another, in turns; a ratio is of neighbours. ``tiny-vit``: its norm parameters
are fed to the session that runs; ``lite``: each version needs a second session. ``--png`` draws the last
model's first two stretches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from adaptsvc.config import Settings
from adaptsvc.versions.pointer import FilePointer
from benchmarks.figures import Figure, at_most, publish, ratios
from benchmarks.homes import stage
from benchmarks.pictures import pictures
from benchmarks.serving import HOST, requests_of, service
from benchmarks.timeline import NO_VERSION, Answer, Client, draw, failed, latency_ms

MODELS = ("tiny-vit", "lite")
P99_RATIO = {"tiny-vit": 1.2, "lite": 1.5}
VERSIONS, PICTURES, SWAP_EVERY_S, WARM_S = 4, 64, 1.0, 3.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which the pointer rested, or moved once a second.

    Attributes:
        answers: of requests sent meanwhile.
        moves_s: when the pointer moved.
        swaps: by all processes together,
        swap_s: and from seeing a version to serving it, their sum.
    """

    answers: list[Answer]
    moves_s: list[float]
    swaps: float
    swap_s: float


def stretches(
    home: Path, images: Sequence[bytes], runs: int, seconds: float, clients: int
) -> list[Stretch]:
    """At rest and moving, in turns."""
    found: list[Stretch] = []
    with service(home, poll_interval_s=0.2) as settings:
        pointer, versions = FilePointer(settings.pointer), cycle(range(1, VERSIONS + 1))
        port = settings.serve.port
        time.sleep(WARM_S)  # one process answers /readyz; the other may be a moment behind
        with Client(port, requests_of(images, port), clients).running() as client:
            time.sleep(WARM_S)
            for number in range(2 * runs):
                before, before_s = swaps(settings)
                begun, moves = client.now_s(), []
                while client.now_s() - begun < seconds:
                    if number % 2:
                        moves.append(client.now_s())
                        pointer.force(next(versions))
                    time.sleep(SWAP_EVERY_S)
                ended, (after, after_s) = client.now_s(), swaps(settings)
                answers = client.between(begun, ended)
                found.append(Stretch(answers, moves, after - before, after_s - before_s))
    return found


def swaps(settings: Settings) -> tuple[float, float]:
    """How many so far, all processes together, and the sum of their seconds."""
    with urlopen(f"http://{HOST}:{settings.serve.port}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        values = {each.name: each.value for family in families for each in family.samples}
    return values["adaptsvc_swap_seconds_count"], values["adaptsvc_swap_seconds_sum"]


def figures_of(name: str, found: Sequence[Stretch]) -> list[Figure]:
    """The lines of one model."""
    rest, moving = found[::2], found[1::2]
    calm = [latency_ms(each.answers, 0.99) for each in rest]
    busy = [latency_ms(each.answers, 0.99) for each in moving]
    answers = [answer for each in found for answer in each.answers]
    seen = [each.version for each in answers if each.version != NO_VERSION]
    changes = sum(before != after for before, after in pairwise(seen))
    limit = at_most(P99_RATIO[name])
    return [
        Figure(f"{name}: requests", [float(len(answers))], ""),
        Figure(f"{name}: failed", [float(failed(answers))], "", at_most(0)),
        Figure(f"{name}: pointer moves", [float(sum(len(s.moves_s) for s in moving))], ""),
        Figure(f"{name}: swaps", [float(sum(s.swaps for s in moving))], ""),
        Figure(f"{name}: a swap, mean", [1000 * s.swap_s / s.swaps for s in moving], "ms"),
        Figure(f"{name}: answers by another version than the one before", [float(changes)], ""),
        Figure(f"{name}: median, at rest", [latency_ms(s.answers, 0.5) for s in rest], "ms"),
        Figure(
            f"{name}: median, a move a second", [latency_ms(s.answers, 0.5) for s in moving], "ms"
        ),
        Figure(f"{name}: p99, at rest", calm, "ms"),
        Figure(f"{name}: p99, a move a second", busy, "ms"),
        Figure(f"{name}: p99, moving / at rest", ratios(busy, calm), "x", limit),
    ]


def measure(name: str, args: argparse.Namespace) -> list[Figure]:
    """One model."""
    images = pictures(args.images, PICTURES)
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as folder:
        home = Path(folder)
        stage(home, name, versions=VERSIONS)
        found = stretches(home, images, args.runs, args.seconds, args.clients)
    if args.png is not None:
        shown = [*found[0].answers, *found[1].answers]
        first_s = shown[0].at_s
        answers = [Answer(a.at_s - first_s, a.ms, a.version) for a in shown if not a.why]
        title = f"{name}: requests of {args.clients} clients, at rest, then a version a second"
        draw(answers, [at_s - first_s for at_s in found[1].moves_s], title, args.png)
    return figures_of(name, found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap_http", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=Path, help="folder of JPEGs; made up without")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each stretch")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--png", type=Path, help="draw latency over time there")
    args = parser.parse_args(arguments)
    figures = [figure for name in args.models for figure in measure(name, args)]
    publish("versions taking over, as clients see it", figures, args.json)


if __name__ == "__main__":
    main()
