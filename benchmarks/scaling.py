"""From one machine to 100,000 images a second: `python -m benchmarks.scaling` makes docs/scaling.md's tables.

Arithmetic on what was measured (`benchmarks.scaling_inputs`) and on settings as delivered, with one
simulation: how busy a service process may be before its 99th percentile breaks a limit
(`benchmarks.queueing`). It measures nothing, and says the same wherever it runs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptsvc.redis.notices import PING_S
from adaptsvc.sections import LearnSettings, SampleSettings
from adaptsvc.serve_section import ServeSettings
from adaptsvc.streaming import IMAGES
from benchmarks.queueing import Burst, Service, closed, most_utilisation, p99_s
from benchmarks.scaling_inputs import MEASURED, PUBLISHED, Input
from streams.topics import load_topics

RATES = (100, 1_000, 10_000, 100_000)  # images a second
UTILISATIONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
RANKS = (1, 2, 4, 8, 16)
PROCESSES = 2  # of a replica, a core each
CLASSES, CLASSES_SEEN = 100, 10  # here, and in what was measured
DRIFT_POLL_S = 2.0  # adaptsvc.serving.service, which loads BentoML
CONNECTIONS = 3 * PROCESSES  # the pointer's thread, drift's, and the subscription of each process
BURST = Burst(factor=2.0, length_s=10.0, period_s=60.0)
REQUESTS, SEED = 100_000, 0
COPIES = 3  # of a message in Kafka: k8s/overlays/kafka
SCRAPE_S = 15.0  # k8s/monitoring
DAY_S = 86_400
LEAST_REPLICAS, MOST_REPLICAS = 2, 10  # k8s/overlays/kafka/scaling.yaml


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `benchmarks.serving` found beside two other jobs on two cores: docs/benchmarks.md."""

    clients: int
    per_s: float
    median_ms: float
    p99_ms: float


LOADED = (
    Loaded(1, 17.15, 55.83, 128),
    Loaded(8, 32.15, 264, 555),
    Loaded(32, 30.42, 1048, 2231),
)
P99_OF_MEDIAN = LOADED[0].p99_ms / LOADED[0].median_ms  # of one request at a time


@dataclass(frozen=True, slots=True)
class Assumed:
    """What a reader may want otherwise.

    Attributes:
        limit_ms: of the 99th percentile.
        link_gbit: of one machine's network, in Gb/s.
    """

    limit_ms: float = 200.0
    link_gbit: float = 10.0


BY_DEFAULT = Assumed()


def measured(name: str) -> float:
    """A figure of ours."""
    return MEASURED[name].value


def service() -> Service:
    """One process, on one core."""
    return Service(measured("request_ms") / 1000, P99_OF_MEDIAN)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What so many images a second need.

    Attributes:
        rate: images a second.
        busy: utilisation that a process may have on average.
        assumed: limits and links.
    """

    rate: int
    busy: float
    assumed: Assumed

    @property
    def replicas(self) -> int:
        """Of two processes on two cores."""
        needed = self.rate * measured("request_ms") / 1000 / PROCESSES / self.busy
        return max(LEAST_REPLICAS, math.ceil(needed))

    @property
    def mb_s(self) -> float:
        """Of images."""
        return self.rate * measured("image_kb") / 1000

    @property
    def links(self) -> float:
        """How many machines' networks that fills."""
        return self.mb_s * 8 / 1000 / self.assumed.link_gbit

    @property
    def decoding_cores(self) -> int:
        """Cores that decoding alone needs, wherever inference runs."""
        return math.ceil(self.rate * measured("decode_ms") / 1000 / self.busy)

    @property
    def sampled_per_s(self) -> float:
        """Images that `sample.per_second` as delivered lets through: it is per service, not per fleet."""
        return min(self.rate, self.replicas * SampleSettings().per_second)

    def fan_out_s(self, megabytes: float) -> float:
        """Seconds in which one Redis has sent every replica so much."""
        return self.replicas * megabytes * 8 / 1000 / self.assumed.link_gbit

    @property
    def topic_s(self) -> float:
        """Seconds of the stream that the topic holds, were every image appended."""
        spec = load_topics().spec(IMAGES)
        return min(spec.retention_s, spec.retention_bytes / (self.mb_s * 1e6))


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker of so many ranks of two cores each; the messages between them cost nothing here."""

    ranks: int

    @property
    def steps_s(self) -> float:
        """The steps of a round, of which the ranks share all but the text tower."""
        part = measured("text_share")
        return _steps_s() * (part + (1 - part) / self.ranks)

    @property
    def rest_s(self) -> float:
        """All else, the first rank's alone; at most, for a service answered beside it."""
        rounds = measured("demo_images") / LearnSettings().round_images
        return 60 * measured("demo_minutes") / rounds - _steps_s()

    @property
    def cycle_s(self) -> float:
        """From one version to the next, where images wait."""
        return self.steps_s + self.rest_s

    @property
    def images_per_s(self) -> float:
        """New images it learns from."""
        return LearnSettings().round_images / self.cycle_s


def _steps_s() -> float:
    """Of one process on two cores."""
    learn = LearnSettings()
    return learn.window_images * learn.passes / measured("steps_per_s")


def large_base_mb() -> float:
    """What a replica fetches for a large base: each process does, as was seen of the small one."""
    return PROCESSES * measured("large_base_mb")


def redis_per_s() -> float:
    """What a replica should ask of Redis while nothing happens: the pointer, drift, and signs of life."""
    each = 1 / ServeSettings().poll_interval_s + 1 / DRIFT_POLL_S + 1 / PING_S
    return PROCESSES * each


def series() -> float:
    """Of a scrape of one replica; each class is counted as known and as unknown."""
    return measured("series") + 2 * (CLASSES - CLASSES_SEEN)


def inputs() -> Iterator[str]:
    """Every figure, and where it stands."""
    yield "| figure | | where |"
    yield "|---|---|---|"
    for each in (*MEASURED.values(), *PUBLISHED.values()):
        value = f"{number(each.value)} {each.unit}".rstrip()
        yield f"| {each.what} | {value} | {_source(each)} |"


def _source(each: Input) -> str:
    name = Path(each.page).stem
    return f"[{name}]({each.page})" if each.words else f"[published]({each.page})"


def validation() -> Iterator[str]:
    """The queue of two processes, known from one request at a time, against what was measured."""
    yield "| | predicted | measured | gap |"
    yield "|---|---|---|---|"
    for name, key in (("8", "eight_ratio"), ("32", "many_ratio")):
        yield _compared(
            f"{name} at once, of the bare loop on two cores",
            measured("one_ratio"),
            measured(key),
            "x",
        )
    asked, held = measured("redis_per_s"), measured("connections")
    yield _compared("a replica's commands at Redis", redis_per_s(), asked, "/s")
    yield _compared("its connections to Redis", CONNECTIONS, held, "")
    one = LOADED[0]
    spread = Service(1 / one.per_s, P99_OF_MEDIAN)
    for each in LOADED[1:]:
        rate, median_s, p99 = closed(spread, each.clients, PROCESSES, requests=REQUESTS, seed=SEED)
        name = f"{each.clients} at once, two other jobs beside"
        yield _compared(f"{name}: requests", rate, each.per_s, "/s")
        yield _compared(f"{name}: median", 1000 * median_s, each.median_ms, "ms")
        yield _compared(f"{name}: 99th percentile", 1000 * p99, each.p99_ms, "ms")


def _compared(name: str, predicted: float, found: float, unit: str) -> str:
    gap = f"{100 * (predicted / found - 1):+.0f} %"
    cells = (f"{number(each)} {unit}".rstrip() for each in (predicted, found))
    return f"| {name} | {' | '.join(cells)} | {gap} |"


def one_process(assumed: Assumed) -> Iterator[str]:
    """How long the slowest wait, by how busy a process is."""
    yield "| a process is busy, on average | images/s of a replica | p99, even arrivals | p99, bursts |"
    yield "|---|---|---|---|"
    for busy in UTILISATIONS:
        rate = busy * PROCESSES / service().mean_s
        p99 = [
            1000 * p99_s(service(), busy, burst, requests=REQUESTS, seed=SEED)
            for burst in (None, BURST)
        ]
        yield f"| {100 * busy:.0f} % | {number(rate)} | {rounded(p99[0])} ms | {rounded(p99[1])} ms |"
    even, bursts = (_busy(assumed, burst) for burst in (None, BURST))
    limit = f"{assumed.limit_ms:g} ms"
    yield f"| most for a p99 of {limit} | | {100 * even:.0f} % | {100 * bursts:.0f} % |"


def _busy(assumed: Assumed, burst: Burst | None) -> float:
    limit_s = assumed.limit_ms / 1000
    return most_utilisation(service(), limit_s, burst, requests=REQUESTS, seed=SEED)


Cell = Callable[[Fleet], str]
ROWS: tuple[tuple[str, Cell], ...] = (
    ("replicas of two processes, two cores each", lambda f: number(f.replicas)),
    ("their memory, GB", lambda f: number(f.replicas * measured("replica_mb") / 1000)),
    ("images over the network, Gb/s", lambda f: number(f.mb_s * 8 / 1000)),
    ("links that this fills", lambda f: number(f.links)),
    ("of the cores, decoding alone", lambda f: number(f.decoding_cores)),
    ("commands a second at Redis", lambda f: number(f.replicas * measured("redis_per_s"))),
    (
        "of what one Redis was seen to do",
        lambda f: share(f.replicas * measured("redis_per_s") / PUBLISHED["redis_gets"].value),
    ),
    ("connections to Redis", lambda f: number(f.replicas * measured("connections"))),
    ("a swap to a delta: MB from Redis", lambda f: number(f.replicas * measured("swap_kb") / 1000)),
    ("the same, seconds of its link", lambda f: number(f.fan_out_s(measured("swap_kb") / 1000))),
    ("a new base, lite: seconds", lambda f: number(f.fan_out_s(measured("base_mb")))),
    ("a new base, ViT-B-32: seconds", lambda f: number(f.fan_out_s(large_base_mb()))),
    ("Prometheus series, 100 classes", lambda f: number(f.replicas * series())),
    ("samples a second", lambda f: number(f.replicas * series() / SCRAPE_S)),
    ("`sample.per_second` as delivered lets through, images/s", lambda f: number(f.sampled_per_s)),
    ("of that, what one worker learns from", lambda f: share(Worker(1).images_per_s / f.sampled_per_s)),
    (
        "`sample.per_second` that feeds one worker",
        lambda f: number(Worker(1).images_per_s / f.replicas),
    ),
    ("every image appended: MB/s into Kafka", lambda f: number(f.mb_s)),
    ("the same, of the published cluster", lambda f: share(f.mb_s / PUBLISHED["kafka_mb_s"].value)),
    (
        "the same, TB a day on disk, three copies",
        lambda f: number(COPIES * f.mb_s * DAY_S / 1e6),
    ),
    ("the same, how long the topic as delivered holds it", lambda f: span(f.topic_s)),
    (
        "the same, what one worker learns from",
        lambda f: share(Worker(1).images_per_s / f.rate),
    ),
)  # fmt: skip


def magnitudes(assumed: Assumed) -> Iterator[str]:
    """Each order of magnitude, sized for bursts."""
    busy = _busy(assumed, BURST)
    fleets = [Fleet(rate, busy, assumed) for rate in RATES]
    yield f"| images a second | {' | '.join(f'{rate:,}' for rate in RATES)} |"
    yield "|---" * (1 + len(RATES)) + "|"
    for name, cell in ROWS:
        yield f"| {name} | {' | '.join(map(cell, fleets))} |"


def ranks() -> Iterator[str]:
    """One worker by how many ranks help it with steps."""
    yield "| ranks, two cores each | steps, s | the rest, s | a version every | learns from, images/s |"
    yield "|---|---|---|---|---|"
    for count in RANKS:
        worker = Worker(count)
        parts = " | ".join(map(number, (worker.steps_s, worker.rest_s, worker.cycle_s)))
        yield f"| {count} | {parts} s | {number(worker.images_per_s)} |"


def number(value: float) -> str:
    """Two digits that count, or all of a large whole.

    Example:
        >>> [number(value) for value in (0.0123, 4.0, 13.42, 1714.3)]
        ['0.012', '4', '13', '1,714']
    """
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.2g}"


def rounded(value: float) -> str:
    """To two digits, since a simulation knows no more.

    Example:
        >>> rounded(4370.2)
        '4,400'
    """
    digits = 1 - math.floor(math.log10(value))
    return number(round(value, digits))


def share(value: float) -> str:
    """In percent.

    Example:
        >>> share(0.00123), share(1.5)
        ('0.12 %', '150 %')
    """
    return f"{number(100 * value)} %"


def span(seconds: float) -> str:
    """As days, hours, minutes or seconds.

    Example:
        >>> span(5368.7), span(5.4)
        ('1.5 hours', '5.4 s')
    """
    for name, length in (("days", DAY_S), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{number(seconds / length)} {name}"
    return f"{number(seconds)} s"


def tables(assumed: Assumed) -> dict[str, str]:
    """Every table, in Markdown, by what it is of."""
    made = {
        "What goes in": inputs(),
        "Predicted and measured": validation(),
        "One process": one_process(assumed),
        "Orders of magnitude": magnitudes(assumed),
        "Ranks": ranks(),
    }
    return {name: "\n".join(lines) for name, lines in made.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--limit-ms", type=float, default=BY_DEFAULT.limit_ms, help="of the p99")
    parser.add_argument(
        "--link-gbit", type=float, default=BY_DEFAULT.link_gbit, help="of a machine"
    )
    args = parser.parse_args(arguments)
    for name, table in tables(Assumed(args.limit_ms, args.link_gbit)).items():
        sys.stdout.write(f"{name}\n\n{table}\n\n")


if __name__ == "__main__":
    main()
