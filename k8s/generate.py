"""What the manifests take from elsewhere in the repository, written as manifests: `python -m k8s.generate`.

Topics from streams/topics.yaml, alerts from deploy/prometheus/rules.yml, dashboards from k8s/grafana/.
kustomize reads no file above a kustomization and knows no wildcards, so these are written out; a test
compares them.
It knows nothing of Kafka, Prometheus or Grafana but the shape of their resources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from streams.kafka_admin import topic_configs
from streams.topics import TopicSpec, load_topics

ROOT = Path(__file__).parents[1]
RULES = Path("deploy/prometheus/rules.yml")
DASHBOARDS = Path("k8s/grafana")
KUSTOMIZATION = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
HEADER = "# Made by `make k8s` from {source}; change that and make it again.\n"
CLUSTER, REPLICAS = "adaptsvc", 3


def manifests(root: Path = ROOT) -> dict[Path, str]:
    """Every file that is made, by its path below the root.

    Args:
        root: of the repository; alerts and dashboards may be missing.
    """
    rules, boards = root / RULES, sorted((root / DASHBOARDS).glob("*.json"))
    made = {
        Path("k8s/overlays/kafka/topics.yaml"): _text("streams/topics.yaml", *map(topic, specs()))
    }
    if rules.is_file():
        made[Path("k8s/monitoring/rules.yaml")] = _text(
            str(RULES), prometheus_rule(yaml.safe_load(rules.read_text(encoding="utf-8")))
        )
    if boards:
        names = [board.name for board in boards]
        made[DASHBOARDS / "kustomization.yaml"] = _text(f"{DASHBOARDS}/*.json", dashboards(names))
    resources = ["monitor.yaml", *(["rules.yaml"] if rules.is_file() else [])]
    monitoring = {**KUSTOMIZATION, "resources": [*resources, *(["../grafana"] if boards else [])]}
    made[Path("k8s/monitoring/kustomization.yaml")] = _text("what there is", monitoring)
    return made


def specs() -> Iterator[TopicSpec]:
    """The topics, by name."""
    yield from (spec for _, spec in sorted(load_topics().specs.items()))


def topic(spec: TopicSpec) -> dict[str, Any]:
    """A topic as Strimzi's Topic Operator takes it."""
    return {
        "apiVersion": "kafka.strimzi.io/v1",
        "kind": "KafkaTopic",
        "metadata": {"name": spec.name, "labels": {"strimzi.io/cluster": CLUSTER}},
        "spec": {
            "partitions": spec.partitions,
            "replicas": REPLICAS,
            "config": dict(topic_configs(spec)),
        },
    }


def prometheus_rule(rules: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of a file of Prometheus rules, as the Prometheus Operator takes them."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "adaptsvc"},
        "spec": {"groups": rules["groups"]},
    }


def dashboards(names: list[str]) -> dict[str, Any]:
    """A ConfigMap of dashboards, labelled as Grafana's sidecar looks for them."""
    options = {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}}
    generator = {"name": "adaptsvc-dashboards", "files": names, "options": options}
    return {**KUSTOMIZATION, "configMapGenerator": [generator]}


def _text(source: str, *documents: Mapping[str, Any]) -> str:
    dumped = yaml.safe_dump_all(documents, sort_keys=False, width=110, allow_unicode=True)
    return HEADER.format(source=source) + dumped


if __name__ == "__main__":
    for path, text in manifests().items():
        (ROOT / path).write_text(text, encoding="utf-8")
        print(path)
