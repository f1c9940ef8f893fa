"""A Prometheus that watches what a benchmark started, with our rules, while it runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.board_queries import SCRAPE_S
from benchmarks.serving import free_port
from tests.prometheus_server import PrometheusServer

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules.yml"


def program() -> str:
    """Prometheus, beside this Python or on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if found := shutil.which("prometheus", path=path):
        return found
    raise SystemExit("no prometheus on the path: apt-get install prometheus")


@contextmanager
def prometheus(folder: Path, ports: Mapping[str, int]) -> Iterator[str]:
    """The address of a Prometheus that scrapes these ports of this machine, by job."""
    folder.mkdir()
    server = PrometheusServer(program(), folder, free_port(), SCRAPE_S)
    targets = {f"adaptsvc-{name}": f"127.0.0.1:{port}" for name, port in ports.items()}
    try:
        server.start(targets, RULES)
        yield server.url
    finally:
        server.stop()
