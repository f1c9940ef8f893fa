"""Claims that the values in k8s/ are the code's: settings, ports, paths, metrics, times."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis
import yaml
from prometheus_client import CollectorRegistry
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from typer.main import get_command

from adaptsvc.cli import app
from adaptsvc.config import PREFIX, Settings, read
from adaptsvc.errors import ConfigError
from adaptsvc.prometheus import PrometheusObserver
from adaptsvc.serving.door import METRICS, PROBES, check_exposure
from adaptsvc.serving.keys import keys_of
from streams.topics import load_topics
from tests.conftest import free_port
from tests.deploy import manifests as kube
from tests.deploy.manifests import OVERLAYS, ROOT, Document, named, of_kind, overlay
from tests.redis_server import program

FOLLOWER_S = 10  # Adaptsvc.close waits so long for the thread that follows the pointer
SECRET = {"ADAPTSVC_SERVE__KEYS": json.dumps(["prometheus:data:" + 64 * "0"])}
ReadSettings: TypeAlias = Callable[[str, str], Settings]


@pytest.fixture(params=OVERLAYS)
def name(request: pytest.FixtureRequest) -> str:
    """Each overlay in turn."""
    found: str = request.param
    return found


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> ReadSettings:
    """`settings(overlay, container)`: what its process reads from its environment."""

    def of(name: str, container: str) -> Settings:
        for key, value in environment(overlay(name), container).items():
            monkeypatch.setenv(key, value)
        return read()

    return of


def environment(documents: list[Document], container: str) -> dict[str, str]:
    """The variables of a container of ours; what a Secret holds is made up."""
    each = dict(kube.containers(documents))[container]
    found: dict[str, str] = {}
    for source in each["envFrom"]:
        found |= named(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in each.get("env", ()):
        made_up = SECRET.get(variable["name"], 32 * "s")
        found[variable["name"]] = variable.get("value", made_up)
    return found


def ours(documents: list[Document]) -> dict[str, Document]:
    """The containers that run our images."""
    return {n: each for n, each in kube.containers(documents) if each["image"][:9] == "adaptsvc-"}


def service_of(name: str) -> Document:
    """The service's container."""
    return ours(overlay(name))["adaptsvc/service"]


def worker_of(name: str) -> str:
    """Where the worker's container is."""
    return "adaptsvc/worker" if name == "embedded" else "adaptsvc-worker/worker"


def test_every_variable_is_a_setting_with_a_value_it_may_have(
    name: str, settings: ReadSettings
) -> None:
    for container in ours(overlay(name)):
        assert all(key.startswith(PREFIX) for key in environment(overlay(name), container))
        found = settings(name, container)
        kinds = ("sqlite", "file") if name == "embedded" else ("kafka", "redis")
        assert (found.stream.kind, found.state.kind) == kinds


def test_the_variables_kubernetes_makes_of_our_service_would_stop_us_so_it_makes_none(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in kube.pods(overlay(name)).values():
        assert pod["spec"]["enableServiceLinks"] is False
    monkeypatch.setenv("ADAPTSVC_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(ConfigError, match="ADAPTSVC_SERVICE_HOST"):
        read()


def test_commands_are_commands_of_ours(name: str) -> None:
    known: Any = get_command(app)
    for each in ours(overlay(name)).values():
        program_name, command = each["args"]
        assert program_name == "adaptsvc"
        assert command in known.commands


def test_the_service_may_be_asked_from_elsewhere_with_a_key(
    name: str, settings: ReadSettings
) -> None:
    serve = settings(name, "adaptsvc/service").serve
    assert serve.host == "0.0.0.0"
    check_exposure(serve.host, keys_of(serve.keys))
    with pytest.raises(ConfigError):
        check_exposure(serve.host, keys_of(()))
    assert serve.metrics == "key"
    monitor = named(overlay(name), "PodMonitor", "adaptsvc")
    endpoints = {each["port"]: each for each in monitor["spec"]["podMetricsEndpoints"]}
    assert "credentials" in endpoints["http"]["authorization"]


def test_ports_are_those_that_are_listened_on(name: str, settings: ReadSettings) -> None:
    (http,) = service_of(name)["ports"]
    assert http == {"name": "http", "containerPort": Settings().serve.port}
    worker = ours(overlay(name))[worker_of(name)]
    port = settings(name, worker_of(name)).learn.metrics_port
    assert worker["ports"] == [{"name": "metrics", "containerPort": port}]
    ports = named(overlay(name), "Service", "adaptsvc")["spec"]["ports"]
    assert [each["targetPort"] for each in ports] == ["http"]


def test_probes_ask_where_no_key_is_needed(name: str) -> None:
    service = service_of(name)
    asked = {
        kind: service[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    }
    assert {each["port"] for each in asked.values()} == {"http"}
    assert {each["path"] for each in asked.values()} <= PROBES
    assert (asked["liveness"]["path"], asked["readiness"]["path"]) == ("/livez", "/readyz")
    worker = ours(overlay(name))[worker_of(name)]
    for kind in ("startupProbe", "livenessProbe"):
        assert worker[kind]["httpGet"] == {"path": METRICS, "port": "metrics"}


def test_a_liveness_probe_waits_longer_than_a_canary_may_take(
    name: str, settings: ReadSettings
) -> None:
    serve, probe = settings(name, "adaptsvc/service").serve, service_of(name)["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > serve.canary_timeout_s


def test_a_service_has_the_time_to_end_that_it_may_take(name: str, settings: ReadSettings) -> None:
    found = settings(name, "adaptsvc/service")
    asleep = service_of(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    serve = found.serve
    end_s = asleep + serve.drain_notice_s + serve.drain_s + found.sample.flush_s + FOLLOWER_S
    pod = kube.pods(overlay(name))["adaptsvc"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > end_s


def test_a_worker_has_the_time_to_end_its_longest_step(name: str, settings: ReadSettings) -> None:
    pod, _, container = worker_of(name).partition("/")
    found = settings(name, f"{pod}/{container}")
    grace_s = kube.pods(overlay(name))[pod]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > found.stream.kafka.step_budget_s + 30


def test_what_takes_cores_is_said_where_no_limit_says_it(name: str, settings: ReadSettings) -> None:
    for each in ours(overlay(name)).values():
        assert "cpu" not in each["resources"]["limits"]
    found = settings(name, "adaptsvc/service")
    requested = float(service_of(name)["resources"]["requests"]["cpu"])
    assert found.serve.workers * found.serve.threads <= 2 * requested
    assert found.learn.threads > 0


def test_homes_and_tmp_are_volumes(name: str) -> None:
    home = re.findall(r"ADAPTSVC_HOME=(\S+)", (ROOT / "Dockerfile").read_text())
    for container, each in ours(overlay(name)).items():
        mounts = {mount["mountPath"] for mount in each["volumeMounts"]}
        assert mounts >= {*home, "/tmp"}, container


@pytest.mark.parametrize("which", ["kafka", "gpu"])
def test_kafka_is_reached_as_the_cluster_listens(which: str, settings: ReadSettings) -> None:
    documents = overlay(which)
    kafka = settings(which, worker_of(which)).stream.kafka
    (cluster,) = of_kind(documents, "Kafka")
    (listener,) = cluster["spec"]["kafka"]["listeners"]
    bootstrap = f"{cluster['metadata']['name']}-kafka-bootstrap:{listener['port']}"
    assert (kafka.servers, kafka.security) == (bootstrap, "SASL_SSL")
    assert kafka.mechanism.lower() == listener["authentication"]["type"]
    assert of_kind(documents, "KafkaUser")[0]["metadata"]["name"] == kafka.username
    mounts = ours(documents)[worker_of(which)]["volumeMounts"]
    assert str(Path(kafka.ca_file).parent) in {each["mountPath"] for each in mounts}


def test_our_user_may_what_we_do_on_our_topics_and_nothing_else() -> None:
    (user,) = of_kind(overlay("kafka"), "KafkaUser")
    rules = user["spec"]["authorization"]["acls"]
    topics = {each["resource"]["name"] for each in rules if each["resource"]["type"] == "topic"}
    groups = {each["resource"]["name"] for each in rules if each["resource"]["type"] == "group"}
    assert topics == load_topics().specs.keys()
    assert groups == {Settings().stream.group}


def test_redis_is_the_service_of_that_name(settings: ReadSettings) -> None:
    redis = named(overlay("kafka"), "Service", "adaptsvc-redis")
    (port,) = redis["spec"]["ports"]
    url = settings("kafka", "adaptsvc/service").state.url
    assert url == f"redis://{redis['metadata']['name']}:{port['port']}/0"


def test_redis_starts_with_its_configuration_and_lets_in_whom_the_page_lets_in(
    tmp_path: Path,
) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    rules = re.findall(r"^ *(user .*)$", page, re.MULTILINE)
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
    acl = "\n".join(re.sub(r"#\S+", f"#{digest}", rule) for rule in rules)
    (tmp_path / "users.acl").write_text(acl + "\n")
    server, port = program(), free_port()
    assert server is not None
    conf = (ROOT / "k8s" / "overlays" / "kafka" / "redis.conf").read_text()
    here = conf.replace("/etc/redis/acl", str(tmp_path)).replace("dir /data", f"dir {tmp_path}")
    (tmp_path / "redis.conf").write_text(f"{here}port {port}\n")
    process = subprocess.Popen([server, str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL)
    try:
        options: dict[str, Any] = {"port": port, "retry": Retry(ConstantBackoff(0.2), 100)}
        with redis.Redis(username="adaptsvc", password="secret", **options) as client:
            assert client.ping()
            assert client.set("{adaptsvc}:pointer", "1")
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.config_get("appendfsync")
        with redis.Redis(**options) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
            nobody.ping()
    finally:
        process.kill()
        process.wait()
    for option in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        assert option in conf


def test_the_page_gives_redis_the_rights_that_are_held_to_be_enough() -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("operations.md", "kubernetes.md")]
    rights = [re.findall(r"~\{adaptsvc\}.*$", page, re.MULTILINE) for page in pages]
    assert rights[0] == rights[1]


def test_the_autoscaler_goes_by_a_metric_of_ours_and_a_full_batch_of_every_process(
    settings: ReadSettings,
) -> None:
    registry = CollectorRegistry()
    PrometheusObserver(registry)
    gauges = {each.name for each in registry.collect() if each.type == "gauge"}
    (metric,) = of_kind(overlay("kafka"), "HorizontalPodAutoscaler")[0]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in gauges
    serve = settings("kafka", "adaptsvc/service").serve
    assert metric["pods"]["target"]["averageValue"] == str(serve.workers * serve.batch_images)
    adapter = yaml.safe_load((ROOT / "k8s" / "prometheus-adapter" / "values.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["seriesQuery"].startswith(name + "{")
    assert rule["name"]["as"] == name


def test_the_worker_is_woken_when_a_round_could_be_due_and_never_twice(
    settings: ReadSettings,
) -> None:
    found = settings("kafka", worker_of("kafka"))
    (scaled,) = of_kind(overlay("kafka"), "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"] == {"name": "adaptsvc-worker"}
    assert scaled["spec"]["maxReplicaCount"] == 1  # one writes: it holds a lease
    triggers = {each["metadata"]["topic"]: each["metadata"] for each in scaled["spec"]["triggers"]}
    due = {"images.unlabeled": found.learn.round_images, "images.labeled": found.tune.labels_min}
    assert {t: int(each["activationLagThreshold"]) + 1 for t, each in triggers.items()} == due
    for each in triggers.values():
        assert each["bootstrapServers"] == found.stream.kafka.servers
        assert each["consumerGroup"] == found.stream.group
        assert each["offsetResetPolicy"] == "earliest"


def test_nobody_but_an_autoscaler_says_how_many() -> None:
    targets = {
        each["spec"]["scaleTargetRef"]["name"]
        for each in of_kind(overlay("kafka"), "HorizontalPodAutoscaler", "ScaledObject")
    }
    deployments = of_kind(overlay("kafka"), "Deployment")
    assert {each["metadata"]["name"] for each in deployments} == targets
    assert all("replicas" not in each["spec"] for each in deployments)


def test_a_scaler_finds_its_user_in_the_workers_environment() -> None:
    (credentials,) = of_kind(overlay("kafka"), "TriggerAuthentication")
    (user,) = credentials["spec"]["env"]
    assert user["name"] in environment(overlay("kafka"), f"adaptsvc-worker/{user['containerName']}")
