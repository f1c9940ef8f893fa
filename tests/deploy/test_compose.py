"""Claims about compose.yaml: Docker Compose takes it, and it says what the code wants to hear."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import kafka
import pytest
import yaml
from typer.main import get_command

from adaptsvc.cli import app
from adaptsvc.config import PREFIX, Settings, read
from adaptsvc.serving.door import is_loopback
from streams.topics import load_topics
from tests.deploy.tools import PROMETHEUS, program, said
from tests.streams.broker import Broker

ROOT = Path(__file__).parents[2]
FILE = ROOT / "compose.yaml"
OURS = ("service", "worker", "topics")
COMPOSE = "install the extra `dev`"
ReadSettings: TypeAlias = Callable[[str], Settings]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as Docker Compose resolves them; it refuses what the specification does not allow."""
    compose = program("docker-compose", COMPOSE)
    resolved = json.loads(said(compose, "-f", str(FILE), "config", "--format", "json"))
    found: dict[str, Any] = resolved["services"]
    return found


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest) -> str:
    """Each service that runs our code."""
    name: str = request.param
    return name


@pytest.fixture
def settings(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> ReadSettings:
    """`settings(name)`: what the process of a service reads from its environment."""

    def of(name: str) -> Settings:
        for key, value in services[name]["environment"].items():
            monkeypatch.setenv(key, value)
        return read()

    return of


def test_every_setting_is_one_of_ours_with_a_value_it_may_have(
    ours: str, services: dict[str, Any], settings: ReadSettings
) -> None:
    assert all(key.startswith(PREFIX) for key in services[ours]["environment"])
    found = settings(ours)
    assert (found.stream.kind, found.state.kind) == ("kafka", "redis")


def test_brokers_and_redis_are_services_of_the_file_on_ports_they_listen_on(
    services: dict[str, Any], settings: ReadSettings
) -> None:
    found = settings("worker")
    host, _, port = found.stream.kafka.servers.partition(":")
    assert f"INSIDE://{host}:{port}" in services[host]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://:{port}," in services[host]["environment"]["KAFKA_LISTENERS"]
    assert found.state.url == "redis://redis:6379/0"
    assert "--port" not in services["redis"]["command"]


def test_all_of_ours_read_the_same_stream_and_state(settings: ReadSettings) -> None:
    assert len({settings(name).stream for name in OURS}) == 1
    assert len({settings(name).state for name in OURS}) == 1


def test_redis_keeps_what_it_acknowledged(services: dict[str, Any]) -> None:
    command = " ".join(services["redis"]["command"])
    for option in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        assert f"--{option}" in command


def test_commands_are_commands_of_ours(services: dict[str, Any]) -> None:
    known: Any = get_command(app)
    name, *command = services["topics"]["command"]
    assert name == "adaptsvc"
    for part in command:
        known = known.commands[part]
    targets = {services[name]["build"]["target"] for name in OURS}
    assert targets == {"serving", "worker"}


def test_the_job_makes_the_topics_on_a_real_broker(
    services: dict[str, Any], tmp_path: Path
) -> None:
    command, environment = services["topics"]["command"], services["topics"]["environment"]
    with Broker(tmp_path) as broker:
        here = {"ADAPTSVC_STREAM__KAFKA__SERVERS": broker.server}
        subprocess.run(
            [sys.executable, "-m", *command],
            env={**os.environ, **environment, **here},
            check=True,
        )
        admin = kafka.KafkaAdminClient(bootstrap_servers=broker.server)
        assert {*admin.list_topics()} >= {*load_topics().specs}
        admin.close()


def test_the_topics_are_made_before_anybody_reads_them(services: dict[str, Any]) -> None:
    for name in ("service", "worker"):
        conditions = {key: each["condition"] for key, each in services[name]["depends_on"].items()}
        assert conditions["topics"] == "service_completed_successfully"
        assert conditions["redis"] == "service_healthy"
    assert services["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    for name in ("kafka", "redis", "service", "worker", "prometheus"):
        assert "test" in services[name]["healthcheck"]


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    ports = [port for each in services.values() for port in each.get("ports", ())]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert len({port["published"] for port in ports}) == len(ports)


def test_service_and_worker_stay_on_loopback_and_the_gateway_forwards_to_them(
    services: dict[str, Any], settings: ReadSettings
) -> None:
    serve, worker = settings("service").serve, settings("worker")
    assert is_loopback(serve.host)
    assert is_loopback(worker.serve.host)
    targets = {port["published"]: port["target"] for port in services["gateway"]["ports"]}
    caddyfile = (ROOT / "deploy" / "Caddyfile").read_text()
    for published, port in (("3000", serve.port), ("9101", worker.learn.metrics_port)):
        forwards = f":{targets[published]} {{\n\treverse_proxy 127.0.0.1:{port}\n}}"
        assert forwards in caddyfile
    for name in ("service", "worker", "prometheus"):
        assert services[name]["network_mode"] == "service:gateway"


def test_prometheus_scrapes_where_service_and_worker_serve_their_metrics(
    settings: ReadSettings,
) -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped}
    worker = settings("worker")
    metrics = f"{worker.serve.host}:{worker.learn.metrics_port}"
    service = settings("service").serve
    expected = {"service": [f"{service.host}:{service.port}"], "worker": [metrics]}
    assert targets == {f"adaptsvc-{name}": hosts for name, hosts in expected.items()}


def test_health_is_asked_where_it_is_answered(
    services: dict[str, Any], settings: ReadSettings
) -> None:
    code = {name: services[name]["healthcheck"]["test"][-1] for name in ("service", "worker")}
    urls = {name: re.findall(r"http://\S+?(?=')", text)[0] for name, text in code.items()}
    assert urlsplit(urls["service"])[1:3] == (f"127.0.0.1:{read().serve.port}", "/readyz")
    port = settings("worker").learn.metrics_port
    assert urlsplit(urls["worker"])[1:3] == (f"127.0.0.1:{port}", "/metrics")


def test_grafana_knows_prometheus_under_the_name_of_its_network(services: dict[str, Any]) -> None:
    sources = yaml.safe_load((ROOT / "deploy" / "grafana" / "datasources.yml").read_text())
    (source,) = sources["datasources"]
    url = urlsplit(source["url"])
    assert source["type"] == "prometheus"
    assert services["prometheus"]["network_mode"] == f"service:{url.hostname}"
    assert url.port in {port["target"] for port in services["gateway"]["ports"]}


def test_every_file_that_is_mounted_is_there(services: dict[str, Any]) -> None:
    mounts = [mount for each in services.values() for mount in each.get("volumes", ())]
    bound = [Path(mount["source"]) for mount in mounts if mount["type"] == "bind"]
    assert len(bound) == 6
    assert all(path.exists() and path.is_relative_to(ROOT) for path in bound)


def test_no_container_may_gain_rights_or_take_the_whole_machine(services: dict[str, Any]) -> None:
    for name, each in services.items():
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert each["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory", "pids"}, name
        assert each.get("user", "1").partition(":")[0] != "0", name
        assert each.get("read_only", False) == (name != "kafka"), name


def test_images_of_others_are_named_with_a_version(services: dict[str, Any]) -> None:
    images = {name: each["image"] for name, each in services.items() if name not in OURS}
    for name, image in images.items():
        assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d[\w.-]*", image), (name, image)


def test_promtool_accepts_the_configuration_of_prometheus_and_its_rules() -> None:
    promtool = program("promtool", PROMETHEUS)
    file = ROOT / "deploy" / "prometheus.yml"
    assert "SUCCESS" in said(promtool, "check", "config", str(file))
