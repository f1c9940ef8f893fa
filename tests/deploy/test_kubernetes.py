"""Claims about the form of k8s/: it renders, Kubernetes would take it, and no pod may more than it has to."""

from __future__ import annotations

import copy
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from k8s.generate import manifests
from streams.kafka_admin import topic_configs
from streams.topics import load_topics
from tests.deploy import manifests as kube
from tests.deploy.manifests import OVERLAYS, ROOT, Document, named, of_kind, overlay

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
OURS = ("adaptsvc-serving", "adaptsvc-worker", "adaptsvc-worker-cuda")
# What operators of others make, for the Kafka and the KafkaUser named adaptsvc.
MADE_BY_STRIMZI = {"adaptsvc", "adaptsvc-cluster-ca-cert"}


@pytest.fixture(params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Document]:
    """Each overlay in turn."""
    return overlay(request.param)


def labels_of(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ())
    )


def secrets_of(value: Any) -> set[str]:
    """Every Secret that is referred to anywhere in a value, unless it may be missing."""
    if isinstance(value, list):
        return {name for each in value for name in secrets_of(each)}
    if not isinstance(value, dict):
        return set()
    found = {name for each in value.values() for name in secrets_of(each)}
    reference = value.get("secretKeyRef", {})
    if reference and not reference.get("optional"):
        found.add(reference["name"])
    found |= {each["name"] for each in value.get("secretTargetRef", ())}
    found |= {value["credentials"]["name"]} if "credentials" in value else set()
    return found | ({value["secretName"]} if "secretName" in value else set())


def test_every_resource_is_as_its_schema_says(rendered: list[Document]) -> None:
    for each in rendered:
        kube.check(each)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0)),
        ("HorizontalPodAutoscaler", ("spec",)),
        ("Kafka", ("spec", "kafka", "listeners", 0)),
        ("KafkaTopic", ("spec",)),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0)),
        ("ScaledObject", ("spec",)),
    ],
)
def test_a_misspelt_field_is_refused(kind: str, path: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(of_kind(overlay("kafka"), kind)[0])
    place: Any = document
    for key in path:
        place = place[key]
    place["misspelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        kube.check(document)


def test_what_is_made_from_other_files_is_as_they_are_now() -> None:
    made = manifests()
    assert {path: (ROOT / path).read_text(encoding="utf-8") for path in made} == made


def test_a_topic_gets_what_topics_create_would_give_it() -> None:
    topics = of_kind(overlay("kafka"), "KafkaTopic")
    found = {each["metadata"]["name"]: each["spec"] for each in topics}
    wanted = load_topics().specs
    assert {name: each["config"] for name, each in found.items()} == {
        name: topic_configs(spec) for name, spec in wanted.items()
    }
    assert {n: each["partitions"] for n, each in found.items()} == {
        name: spec.partitions for name, spec in wanted.items()
    }


def test_alerts_and_dashboards_come_in_as_soon_as_they_are_there(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    (tmp_path / "deploy" / "prometheus").mkdir(parents=True)
    rule = {"alert": "Down", "expr": "up == 0", "for": "5m", "labels": {"severity": "page"}}
    groups = {"groups": [{"name": "service", "rules": [rule]}]}
    (tmp_path / "deploy" / "prometheus" / "rules.yml").write_text(yaml.safe_dump(groups))
    (tmp_path / "k8s" / "grafana").mkdir(exist_ok=True)
    (tmp_path / "k8s" / "grafana" / "service.json").write_text("{}")
    for path, text in manifests(tmp_path).items():
        (tmp_path / path).write_text(text)
    rendered = kube.render(tmp_path / "k8s" / "overlays" / "embedded")
    found = named(rendered, "PrometheusRule", "adaptsvc")
    kube.check(found)
    assert found["spec"] == groups
    assert "service.json" in named(rendered, "ConfigMap", "adaptsvc-dashboards")["data"]


def test_a_container_may_nothing_but_write_where_a_volume_is(rendered: list[Document]) -> None:
    for name, each in kube.containers(rendered):
        security = each["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name


def test_a_pod_is_nobody_special_and_knows_no_token(rendered: list[Document]) -> None:
    for name, pod in kube.pods(rendered).items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["spec"]["automountServiceAccountToken"] is False, name


def test_a_container_asks_for_what_it_takes_and_has_a_limit_of_memory(
    rendered: list[Document],
) -> None:
    for name, each in kube.containers(rendered):
        assert each["resources"]["requests"].keys() >= {"cpu", "memory"}, name
        assert "memory" in each["resources"]["limits"], name


def test_whatever_runs_on_is_probed(rendered: list[Document]) -> None:
    for name, each in kube.containers(rendered):
        if not name.startswith("adaptsvc-export/"):
            assert each.keys() >= {"startupProbe", "livenessProbe"}, name


def test_no_secret_is_told_and_every_one_that_is_needed_is_in_the_page(
    rendered: list[Document],
) -> None:
    assert of_kind(rendered, "Secret") == []
    needed = secrets_of(rendered) - MADE_BY_STRIMZI
    assert needed >= {"adaptsvc-keys"}
    for name in needed:
        assert f"kubectl -n adaptsvc create secret generic {name} " in PAGE
    for container, each in kube.containers(rendered):
        for variable in each.get("env", ()):
            if re.search("KEY|PASSWORD|AUTH", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], container


def test_every_config_map_that_a_pod_reads_is_made(rendered: list[Document]) -> None:
    made = {each["metadata"]["name"] for each in of_kind(rendered, "ConfigMap")}
    text = yaml.safe_dump([*kube.pods(rendered).values()])
    read = {*re.findall(r"configMapRef:\s+name: (\S+)", text)}
    read |= {*re.findall(r"configMap:\s+name: (\S+)", text)}
    assert read
    assert read <= made


def test_every_selector_finds_a_pod(rendered: list[Document]) -> None:
    pods = [pod["metadata"]["labels"] for pod in kube.pods(rendered).values()]
    selectors = {
        f"{each['kind']} {each['metadata']['name']}": each["spec"][key]
        for kind, key in (
            ("NetworkPolicy", "podSelector"),
            ("PodMonitor", "selector"),
            ("PodDisruptionBudget", "selector"),
            ("Service", "selector"),
        )
        for each in of_kind(rendered, kind)
    }
    for name, selector in selectors.items():
        plain = {"matchLabels": selector} if name.startswith("Service ") else selector
        assert any(labels_of(plain, labels) for labels in pods), name


def test_every_pod_is_closed_before_it_is_opened(rendered: list[Document]) -> None:
    closed = named(rendered, "NetworkPolicy", "adaptsvc-closed")["spec"]
    assert {*closed["policyTypes"]} == {"Ingress", "Egress"}
    assert "ingress" not in closed
    for pod in kube.pods(rendered).values():
        assert labels_of(closed["podSelector"], pod["metadata"]["labels"])


def test_our_images_have_the_projects_version_and_others_one_of_their_own(
    rendered: list[Document],
) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, each in kube.containers(rendered):
        image, _, tag = each["image"].partition(":")
        if image in OURS:
            assert tag == version, name
        else:
            assert re.fullmatch(r"\d+\.\d[\w.-]*", tag), name


def test_embedded_is_one_pod_on_one_claim() -> None:
    rendered = overlay("embedded")
    (deployment,) = of_kind(rendered, "Deployment")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]["type"]) == (
        1,
        "Recreate",
    )
    pod = deployment["spec"]["template"]["spec"]
    homes = [each for each in pod["volumes"] if each["name"] == "home"]
    assert homes == [{"name": "home", "persistentVolumeClaim": {"claimName": "adaptsvc-home"}}]
    assert [each["name"] for each in pod["containers"]] == ["worker", "service"]
    assert of_kind(rendered, "PersistentVolumeClaim")[0]["metadata"]["name"] == "adaptsvc-home"


def test_gpu_differs_from_kafka_in_its_worker_alone() -> None:
    kafka, gpu = ({(d["kind"], d["metadata"]["name"]): d for d in overlay(o)} for o in OVERLAYS[1:])
    assert [key for key in kafka if kafka[key] != gpu[key]] == [("Deployment", "adaptsvc-worker")]
    assert kafka.keys() == gpu.keys()
    pod = gpu["Deployment", "adaptsvc-worker"]["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"name": "ADAPTSVC_LEARN__DEVICE", "value": "cuda"} in worker["env"]
    assert "nvidia.com/gpu" in {each["key"] for each in pod["tolerations"]}
