"""What one replica asks of the machines that all share: `python -m benchmarks.replica`.

A service of two processes with an empty home, as a new machine has, on a Redis of our own: the bytes of a
start, commands and connections while nothing happens, the bytes of a swap, and the series that a scrape of
it brings. Counts and bytes only, so a busy machine changes nothing.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import redis
from prometheus_client.parser import text_string_to_metric_families

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.state import State, open_state
from benchmarks.figures import Figure, publish
from benchmarks.homes import stage
from benchmarks.pictures import pictures
from benchmarks.serving import HOST, started
from benchmarks.swap_http import swaps
from tests.redis_server import RedisServer

PROCESSES, PICTURES, SETTLE_S = 2, 200, 15.0
SWAP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What Redis has counted so far."""

    commands: int
    connections: int
    sent_bytes: int

    @classmethod
    def of(cls, client: redis.Redis) -> Asked:
        """As of now; this question's own connection is not among them."""
        info: dict[str, Any] = client.info("all")
        return cls(
            sum(int(each["calls"]) for each in client.info("commandstats").values()),
            int(info["connected_clients"]) - 1,
            int(info["total_net_output_bytes"]),
        )


@contextmanager
def shared_state(
    folder: Path, home: Path | None
) -> Iterator[tuple[dict[str, object], redis.Redis, State]]:
    """A Redis that holds `lite` and two versions of it, of which the first serves."""
    (folder / "redis").mkdir()
    server = RedisServer(folder / "redis")
    server.start()
    try:
        if home is None:
            stage(folder / "worker", "lite", versions=1)
        else:
            shutil.copytree(home / "store", folder / "worker" / "store")
        state: dict[str, object] = {"kind": "redis", "url": server.url, "timeout_s": 20.0}
        opened = open_state(config.read(home=folder / "worker", state=state))
        for version in (0, 1):
            opened.store.share(version)
        opened.pointer.force(0)
        yield state, redis.Redis.from_url(server.url), opened
    finally:
        server.kill()


def series(settings: Settings) -> list[str]:
    """The samples of a scrape, one name each."""
    with urlopen(f"http://{HOST}:{settings.serve.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return [each.name for family in text_string_to_metric_families(text) for each in family.samples]


def ask(settings: Settings, data: bytes) -> None:
    """One image, answered."""
    url = f"http://{HOST}:{settings.serve.port}/v1/classify"
    with urlopen(Request(url, data, {"content-type": "image/jpeg"}), timeout=30) as answer:
        answer.read()


def measure(seconds: float, home: Path | None) -> list[Figure]:
    """One replica, from its start to a swap."""
    with tempfile.TemporaryDirectory(prefix="adaptsvc-bench-") as name:
        folder = Path(name)
        with shared_state(folder, home) as (state, client, opened):
            (folder / "home").mkdir()
            empty = Asked.of(client)
            overrides = {f"state.{key}": str(value) for key, value in state.items()}
            overrides |= {"serve.workers": str(PROCESSES), "serve.threads": "1"}
            with started(folder / "home", overrides) as (settings, _):
                for data in pictures(None, PICTURES):
                    ask(settings, data)
                time.sleep(SETTLE_S)
                settled = Asked.of(client)
                time.sleep(seconds)
                idle = Asked.of(client)
                before = swaps(settings)[0]
                moved = Asked.of(client)
                opened.pointer.force(1)
                deadline = time.monotonic() + SWAP_TIMEOUT_S
                while swaps(settings)[0] < before + PROCESSES and time.monotonic() < deadline:
                    time.sleep(0.2)
                after = Asked.of(client)
                names = series(settings)
    rate = (idle.commands - settled.commands - 2) / seconds  # the two questions are ours
    ours = sum(each.startswith("adaptsvc_") for each in names)
    return [
        Figure("Redis: commands a second, nothing happening", [rate], "/s"),
        Figure("Redis: connections", [float(idle.connections)], ""),
        Figure("Redis: bytes sent for a start with an empty home", [kb(empty, settled)], "kB"),
        Figure("Redis: bytes sent for a swap to a delta", [kb(moved, after)], "kB"),
        Figure("Prometheus: samples of a scrape", [float(len(names))], ""),
        Figure("of which the service's own", [float(ours)], ""),
    ]


def kb(before: Asked, after: Asked) -> float:
    """What was sent in between."""
    return (after.sent_bytes - before.sent_bytes) / 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replica", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of counting commands")
    parser.add_argument("--home", type=Path, help="whose versions 0 and 1 are used; made without")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args(arguments)
    publish(
        f"one replica of {PROCESSES} processes, lite", measure(args.seconds, args.home), args.json
    )


if __name__ == "__main__":
    main()
