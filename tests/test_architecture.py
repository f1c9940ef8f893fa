"""Claims about the structure: what may be loaded where."""

from __future__ import annotations

import subprocess
import sys

import pytest

REDIS = "redis"  # loaded when the settings say so, by nobody before
SERVICE = ["torch", "torchvision", "open_clip", "timm", "kafka", "onnx", "onnxscript", REDIS]
WORKER = ["bentoml", "fastapi", REDIS]


def loaded(module: str) -> set[str]:
    """What a fresh interpreter holds after importing a module."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["adaptsvc.serving.service", "adaptsvc.cli"])
def test_the_service_and_the_command_line_load_no_torch(module: str) -> None:
    assert loaded(module).isdisjoint(SERVICE)


def test_the_worker_loads_no_bentoml() -> None:
    assert loaded("adaptsvc.bootstrap").isdisjoint(WORKER)


def test_streams_loads_nothing_of_adaptsvc() -> None:
    assert "adaptsvc" not in loaded("streams.sqlite")


def test_streams_loads_no_kafka_client_but_at_its_edges() -> None:
    assert "kafka" not in loaded("streams")
    assert "kafka" not in loaded("adaptsvc.bootstrap")
    assert "kafka" in loaded("streams.kafka")


@pytest.mark.parametrize(
    "module", ["adaptsvc.metrics", "adaptsvc.config", "adaptsvc.serving.service"]
)
def test_importing_registers_no_metric_and_makes_no_folder(module: str) -> None:
    code = (
        f"import os, tempfile; os.environ['HOME'] = home = tempfile.mkdtemp(); import {module}; "
        "from prometheus_client import REGISTRY; "
        "print([m.name for m in REGISTRY.collect() if m.name.startswith('adaptsvc')], os.listdir(home))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[]")
