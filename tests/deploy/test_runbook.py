"""Claims about what docs/runbook.md has people type for Compose and Kubernetes, and what words it quotes.

No engine and no cluster is there: Compose and kubectl themselves read each command, and get as far as the
connection. What it says of our own commands is run in `tests.test_runbook`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import get_args

import pytest

from adaptsvc.metrics import SwapFailure
from tests.deploy.manifests import ROOT, containers, named, of_kind, overlay
from tests.deploy.pages import commands, inline, page, sections
from tests.deploy.tools import program, said

EXTRA = "install the extra `dev`"
KINDS = {"deployment": "Deployment", "kafka": "Kafka"}
PAGES = ("runbook", "operations", "kubernetes")
COMPOSE = commands("docker compose", *PAGES)
# The others render, apply and make secrets: what they need is tested with the manifests.
KUBECTL = [
    c for c in commands("kubectl", *PAGES) if re.search(r" (get|\w+/\S+)", c) and "k8s/" not in c
]
RUNBOOK = page("runbook")


def complaint(command: list[str], **environment: str) -> str:
    """What a program says as it fails."""
    told = {**os.environ, **environment}
    done = subprocess.run(command, env=told, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    return done.stderr


def composed(words: list[str]) -> str:
    """What Compose says of a command where there is no engine."""
    command = [program("docker-compose", EXTRA), "-f", str(ROOT / "compose.yaml"), *words]
    return complaint(command, DOCKER_HOST="unix:///nowhere/docker.sock")


def asked(words: list[str]) -> str:
    """What kubectl says of a command where there is no cluster."""
    at = words.index("--") if "--" in words else len(words)
    nowhere = ["--server=http://127.0.0.1:1", "--request-timeout=5s"]
    command = [program("kubectl", EXTRA), *words[:at], *nowhere, *words[at:]]
    return complaint(command, KUBECONFIG=os.devnull)


@pytest.mark.parametrize("command", COMPOSE)
def test_compose_takes_each_command_as_far_as_the_engine(command: str) -> None:
    _, _, *words = shlex.split(command)
    assert composed(words).startswith("failed to connect to the docker API")
    if words[0] == "exec":  # whose service Compose looks up in the engine
        compose = program("docker-compose", EXTRA)
        assert words[1] in said(compose, "-f", str(ROOT / "compose.yaml"), "config", "--services")


@pytest.mark.parametrize("words", ["ps nobody", "logs --tails 1 worker", "dance", "up nobody"])
def test_compose_takes_no_command_that_is_wrong(words: str) -> None:
    assert "failed to connect" not in composed(words.split())


@pytest.mark.parametrize("command", KUBECTL)
def test_kubectl_takes_each_command_as_far_as_the_cluster(command: str) -> None:
    assert "127.0.0.1:1 was refused" in asked(shlex.split(command)[1:])


@pytest.mark.parametrize(
    "words", ["dance deployment/adaptsvc", "logs --tails 1 deployment/adaptsvc"]
)
def test_kubectl_takes_no_command_that_is_wrong(words: str) -> None:
    assert "was refused" not in asked(words.split())


@pytest.mark.parametrize("command", KUBECTL)
def test_what_kubectl_is_asked_for_is_in_the_manifests(command: str) -> None:
    documents = [each for name in ("embedded", "kafka") for each in overlay(name)]
    for kind, name in re.findall(r" (\w+)/([\w-]+)", command):
        names = {each["metadata"]["name"] for each in of_kind(documents, KINDS[kind])}
        assert name in names, command


def test_the_worker_is_where_the_runbook_says_in_both_overlays() -> None:
    assert {name for name, _ in containers(overlay("embedded"))} >= {"adaptsvc/worker"}
    assert "`deployment/adaptsvc -c worker`" in RUNBOOK
    ports = named(overlay("kafka"), "Deployment", "adaptsvc-worker")["spec"]["template"]["spec"]
    assert [p["containerPort"] for c in ports["containers"] for p in c["ports"]] == [9101]


def test_each_code_of_a_refused_version_that_is_explained_exists() -> None:
    text = sections(RUNBOOK)["AdaptsvcSwapFailing"].partition("**Do.**")[2]
    named_codes = {word for word in inline(text) if re.fullmatch(r"[a-z_]+", word)}
    known = {code for part in get_args(SwapFailure) for code in (get_args(part) or (part,))}
    assert named_codes
    assert named_codes <= known


def test_what_the_runbook_quotes_is_said_by_the_product() -> None:
    files = sorted((ROOT / "adaptsvc").rglob("*.py"))
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    quoted = [
        words for text in sections(RUNBOOK).values() for words in re.findall(r'"(.+?)"', text)
    ]
    frozen = inline(sections(RUNBOOK)["AdaptsvcLearningFrozen"])
    reasons = [word for word in frozen if re.fullmatch("[a-z]+_[a-z_]+", word)]
    assert len(quoted) > 3
    assert len(reasons) > 2
    assert [words for words in (*quoted, *reasons) if words not in source] == []
