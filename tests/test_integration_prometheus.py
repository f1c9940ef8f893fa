"""Claims about what a real Prometheus finds in a real service and a real worker.

The dashboards are never rendered: their expressions are asked here, as Grafana would ask them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from adaptsvc.processes import Child, service_command, service_environment
from tests.conftest import draw_png, free_port
from tests.deploy.expressions import RULES, alerts, expressions, healthy, parts
from tests.deploy.tools import PROMETHEUS, program
from tests.faults.site import Site
from tests.prometheus_server import PrometheusServer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]
PNG = {"content-type": "image/png"}


class Installation:
    """A service and a worker that begin with nothing, and all that is done to them to have every series."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.site = Site(folder, folder / "home", model)
        self.metrics_port = free_port()
        self._pictures = count()
        settings = self.site.settings
        environment = {**self.site.environment, **service_environment(settings)}
        log = folder / "service.log"
        self._service = Child.start("service", service_command(settings), environment, log)

    def use(self, server: PrometheusServer) -> None:
        """Ask too early, send bytes that are no image, learn a version, be asked strange things, go back."""
        site = self.site
        site.wait(lambda: self.ask() == 503, "it says that there is no version yet")
        site.start_worker({"learn.metrics_port": str(self.metrics_port)})
        site.wait(site.ready, "version 0 serves")
        site.wait(lambda: bool(server.values("adaptsvc_rounds_total")), "the worker is scraped")
        assert self.ask(b"no image") == 400
        site.send(16, unusable=1)
        site.wait(lambda: self.serving() == 1, "version 1 serves")
        site.wait(
            lambda: self.told_apart(server), "images of a known class and of none are counted"
        )
        site.state.pointer.force(0)
        site.wait(lambda: self.serving() == 0, "version 0 serves again")

    def ask(self, data: bytes | None = None) -> int:
        """The status of an answer; 0 is none."""
        try:
            return self._classify(data or draw_png(next(self._pictures))).status_code
        except httpx.TransportError:
            return 0

    def told_apart(self, server: PrometheusServer) -> bool:
        """Whether both kinds of answer have become more between two scrapes; asks once more."""
        self.ask()
        rate = 'rate(adaptsvc_predictions_total{ood="%s"}[5m])'
        return all(any(v > 0 for v in server.values(rate % ood)) for ood in ("yes", "no"))

    def serving(self) -> int:
        """The version that answers."""
        answer = self._classify(draw_png(next(self._pictures)))
        return int(answer.json()["model_version"])

    def close(self) -> None:
        """End it."""
        self.site.close()
        self._service.stop(5)

    def _classify(self, data: bytes) -> httpx.Response:
        return httpx.post(self.site.url + "/v1/classify", content=data, headers=PNG, timeout=60)


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, tiny_vit_directory: Path
) -> Iterator[PrometheusServer]:
    """It has scraped an installation that did all that one does."""
    found = program("prometheus", PROMETHEUS)
    server = PrometheusServer(found, tmp_path_factory.mktemp("prometheus"), free_port())
    installation = Installation(tmp_path_factory.mktemp("site"), tiny_vit_directory)
    targets = {
        "adaptsvc-service": installation.site.url.removeprefix("http://"),
        "adaptsvc-worker": f"127.0.0.1:{installation.metrics_port}",
    }
    try:
        server.start(targets, RULES)
        installation.use(server)
        installation.site.wait(
            lambda: bool(server.values("adaptsvc:confidence:mean_rate1h")), "the rules are recorded"
        )
        yield server
    finally:
        server.stop()
        installation.close()


@pytest.mark.parametrize("where", expressions())
def test_each_expression_and_each_part_of_it_finds_numbers(
    prometheus: PrometheusServer, where: str
) -> None:
    expr = healthy(expressions()[where])
    assert [part for part in parts(expr) if not prometheus.values(part)] == []


@pytest.mark.parametrize("wrong", ["adaptsvc_disk_fill", 'adaptsvc_disk_full{job="worker"}'])
def test_a_misspelt_metric_or_label_finds_nothing(prometheus: PrometheusServer, wrong: str) -> None:
    right = alerts()["AdaptsvcDiskFull"]["expr"]
    assert prometheus.values(healthy(right))
    assert not prometheus.values(healthy(f"{wrong} == 1"))


def test_prometheus_evaluates_every_rule_and_no_alert_fires(prometheus: PrometheusServer) -> None:
    found = prometheus.rules()
    assert {rule["name"] for rule in found} >= {*alerts()}
    assert {rule["health"] for rule in found} == {"ok"}
    assert [rule["name"] for rule in found if rule.get("state") == "firing"] == []
