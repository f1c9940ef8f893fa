"""Claims about the Bento as it is built: it starts in a clean environment from its folder, and classifies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from adaptsvc.config import Settings
from adaptsvc.processes import Child, service_environment, settings_environment
from tests.conftest import CLASSES, free_port, settings_for

ROOT = Path(__file__).parents[2]
READY_S = 240
# An installation takes 9 seconds of CPU time and 600 MB, once the packages are in a cache.
pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]
LEARNING = {"torch", "torchvision", "open-clip-torch", "timm", "onnx", "onnxscript"}


@dataclass(frozen=True, slots=True)
class Bento:
    """A Bento on disk, and a Python that has what it asks for and nothing else."""

    folder: Path
    python: Path

    @property
    def packages(self) -> set[str]:
        """What its image installs, by name."""
        text = (self.folder / "env" / "python" / "requirements.txt").read_text()
        return {*re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Bento:
    """Built from bentofile.yaml, and installed as its own Dockerfile does."""
    home = tmp_path_factory.mktemp("bento")
    built = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}
    build = [sys.executable, "-m", "bentoml", "build", str(ROOT), "--version", "test"]
    subprocess.run(build, env={**built, "PYTHONPATH": str(ROOT)}, check=True)
    folder = home / "bentos" / "adaptsvc" / "test"
    python = home / "venv" / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]  # BentoML brings it
    subprocess.run([*uv, "venv", "--quiet", str(python.parents[1])], check=True)
    wanted = ["-r", str(folder / "env" / "python" / "requirements.txt")]
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), *wanted], check=True)
    return Bento(folder, python)


@pytest.fixture
def settings(
    tmp_path: Path, tiny_resnet_directory: Path, tiny_home: Callable[[Path], Path]
) -> Settings:
    """Of a home with a version that serves."""
    serve = {"port": free_port(), "workers": 1, "threads": 1}
    found = settings_for(tiny_resnet_directory, tmp_path / "home", serve=serve)
    shutil.copytree(tiny_home(tiny_resnet_directory), found.home)
    return found


@pytest.fixture
def started(bento: Bento, settings: Settings, tmp_path: Path) -> Iterator[Child]:
    """The Bento serves, from its own folder, and sees nothing of this repository."""
    given = settings_environment(
        {"home": str(settings.home), "serve.port": str(settings.serve.port), "serve.workers": "1"}
    )
    command = [str(bento.python), "-m", "bentoml", "serve", str(bento.folder)]
    command += ["--host", settings.serve.host, "--port", str(settings.serve.port)]
    environment = {**given, **service_environment(settings), "PYTHONPATH": ""}
    child = Child.start("bento", command, environment, tmp_path / "bento.log")
    yield child
    child.stop()


def test_the_resolved_requirements_hold_no_torch(bento: Bento) -> None:
    assert {"bentoml", "onnxruntime-gpu", "redis", "kafka-python"} <= bento.packages
    assert LEARNING.isdisjoint(bento.packages)


def test_the_bento_starts_in_a_clean_environment_and_classifies(
    started: Child, settings: Settings, png: Callable[..., bytes], tmp_path: Path
) -> None:
    said = tmp_path / "bento.log"
    url = f"http://127.0.0.1:{settings.serve.port}"
    deadline = time.monotonic() + READY_S
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        while not _is_ready(client):
            assert started.running, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        headers = {"content-type": "image/png"}
        answer = client.post("/v1/classify", content=png(0), headers=headers).json()
    (result,) = answer["results"]
    assert answer["model_version"] == 0
    assert result["label"] in CLASSES


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
