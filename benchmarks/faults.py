"""What faults cost in messages and answers: `python -m benchmarks.faults`.

The scenarios are those of the tests (tests/faults), with real processes on tiny random models. A fault is
done to an installation that runs; messages are counted right after it, and once everything ran again; a
client asks the service all the while. Lost is a message that the log acknowledged, and that is neither
learned from, nor a dead letter, nor waiting or unread. Needs the extra `dev`, and for the full disk the
right to mount.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from adaptsvc.bootstrap import prepare
from benchmarks.figures import WIDTH, machine
from tests.conftest import VIT, settings_for, write_tiny
from tests.faults import scenarios, sites
from tests.faults.case import Outcome
from tests.faults.moments import MOMENTS
from tests.faults.sites import Model
from tests.redis_server import RedisServer

COLUMNS = ("sent", "left", "learned", "dead letters", "unread", "lost", "failed requests")


def tiny_model(folder: Path) -> Model:
    """A tiny random CLIP, and a home with its zero-shot version."""
    directory, home = folder / "model", folder / "prepared"
    directory.mkdir()
    write_tiny(directory, VIT)
    prepare(settings_for(directory, home))
    return Model(directory, home)


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Every fault, one after another."""
    model = tiny_model(folder)
    with sites.in_files(folder / "files", model) as site:
        yield scenarios.nothing(site)
        for where in MOMENTS:
            yield scenarios.worker_killed(site, where)
        yield scenarios.checkpoint_cut(site)
        yield scenarios.checkpoints_gone(site)
        yield scenarios.clock_jumps(site)
        yield scenarios.service_process_killed(site)
        yield scenarios.service_killed(site)
    with sites.on_small_disk(folder / "small", model) as site:
        yield scenarios.disk_full(site)
    with ExitStack() as stack:
        (folder / "redis").mkdir()
        redis = RedisServer(folder / "redis", persistent=True)
        redis.start()
        stack.callback(redis.kill)
        scaled = stack.enter_context(sites.scaled_out(folder / "scaled", model, redis))
        yield scenarios.two_workers(scaled)
        yield scenarios.broker_killed(scaled)
        yield scenarios.redis_killed(scaled)


def row(outcome: Outcome) -> tuple[str, ...]:
    """One line of the table."""
    struck, ended = outcome.struck, outcome.ended
    left = struck.sent - struck.learned - struck.dead - struck.lost
    unread = ended.unread + ended.waiting
    counts = (ended.sent, left, ended.learned, ended.dead, unread, outcome.lost)
    return outcome.fault, *map(str, counts), f"{outcome.failed} of {outcome.requests}"


def publish(found: Sequence[Outcome], path: Path | None) -> None:
    """Print the table; write what was found where `path` says."""
    where = machine()
    table = Table(title="faults", caption=" · ".join(f"{k} {v}" for k, v in where.items()))
    table.add_column("fault")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for outcome in found:
        table.add_row(*row(outcome))
    console = Console()
    Console(width=None if console.is_terminal else WIDTH).print(table)
    if path is not None:
        content = {**where, "faults": [dataclasses.asdict(each) for each in found]}
        path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Try every fault and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        found = list(outcomes(Path(folder)))
    publish(found, options.json)


if __name__ == "__main__":
    main()
