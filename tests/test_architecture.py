"""Claims about the structure: what may be loaded where."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

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


def test_onnx_runtime_notes_nothing_of_who_uses_it(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    code = "import adaptsvc.serving.encoder"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


ROOT = Path(__file__).parents[1]
PICKLING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FETCHING = {"httpx", "requests", "urllib.request", "urllib3", "aiohttp"}


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def imported(tree: ast.AST) -> set[str]:
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    return names | {
        n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module is not None
    }


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call of something with a dot, by its last two names."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return [(".".join(ast.unparse(n.func).split(".")[-2:]), n) for n in found]


@pytest.mark.parametrize("path", sources("adaptsvc", "streams"), ids=lambda p: str(p.name))
def test_nothing_is_read_that_could_run_code(path: Path) -> None:
    """`pickle` is imported where the error of a refused pickle is caught, and nothing of it is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert imported(tree) & PICKLING <= {"pickle"}
    for name, call in calls(tree):
        said = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert not name.startswith(("pickle.", "yaml.load", "yaml.unsafe_load")), name
        assert said.get("allow_pickle", "False") == "False", name
        if name == "torch.load":
            assert said.get("weights_only") == "True", f"line {call.lineno}"


@pytest.mark.parametrize("path", sources("adaptsvc/serving"), ids=lambda p: str(p.name))
def test_the_service_can_fetch_no_address(path: Path) -> None:
    assert not imported(ast.parse(path.read_text(encoding="utf-8"))) & FETCHING
