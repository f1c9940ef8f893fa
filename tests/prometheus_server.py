"""A Prometheus of our own, on a free port, with a folder of its own. It knows nothing of what it scrapes."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

START_TIMEOUT_S = 60.0


class PrometheusServer:
    """A server that scrapes and evaluates every so often.

    Args:
        program: where it is.
        folder: of its data, configuration and log.
        port: a free one.
        every_s: how often.
    """

    def __init__(self, program: str, folder: Path, port: int, every_s: int = 1) -> None:
        self._program, self._folder, self._every = program, folder, f"{every_s}s"
        self.url = f"http://127.0.0.1:{port}"
        self._address = f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0

    def start(self, jobs: Mapping[str, str], rules: Path) -> None:
        """Start it, and wait until it answers; jobs are their targets, by name."""
        scraped = [
            {"job_name": name, "static_configs": [{"targets": [t]}]} for name, t in jobs.items()
        ]
        config = {
            "global": {
                "scrape_interval": self._every,
                "scrape_timeout": self._every,
                "evaluation_interval": self._every,
            },
            "rule_files": [str(rules)],
            "scrape_configs": scraped,
        }
        file = self._folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        command = [self._program, f"--config.file={file}", f"--web.listen-address={self._address}"]
        command.append(f"--storage.tsdb.path={self._folder / 'data'}")
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline, self._started_s = time.monotonic() + START_TIMEOUT_S, time.time()
        while not self._ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError((self._folder / "prometheus.log").read_text()[-3000:])
            time.sleep(0.2)

    def values(self, expr: str) -> list[float]:
        """Every number that an expression has had since the start; NaN is none."""
        span = {"start": self._started_s, "end": time.time(), "step": 1}
        series = self._get("query_range", query=expr, **span)["result"]
        numbers = [float(value) for each in series for _, value in each["values"]]
        return [number for number in numbers if not math.isnan(number)]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its state and what went wrong with it."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> bool:
        try:
            return httpx.get(self.url + "/-/ready", timeout=5).is_success
        except httpx.TransportError:
            return False

    def _get(self, path: str, **values: Any) -> Any:
        said = httpx.get(f"{self.url}/api/v1/{path}", params=values, timeout=60).json()
        if said["status"] != "success":
            raise AssertionError(f"{values}: {said['error']}")
        return said["data"]
