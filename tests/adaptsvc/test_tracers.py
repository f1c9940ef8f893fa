"""Claims about choosing a tracer: nothing is loaded where nothing is traced, and the extra is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from adaptsvc import config
from adaptsvc.errors import ConfigError
from adaptsvc.tracers import open_tracer
from adaptsvc.tracing import OFF
from adaptsvc.tracing_section import TracingSettings

NOTHING_LOADED = """
import sys
from adaptsvc.serving import answers, app, engine, traced, feedback, sampling
from adaptsvc.tracers import open_tracer
from adaptsvc.tracing_section import TracingSettings
open_tracer(TracingSettings(), "adaptsvc")
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
WITHOUT_THE_EXTRA = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.exporter"):
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Missing())
from adaptsvc.cli import main
sys.argv = ["adaptsvc", sys.argv[1]]
main()
"""


def test_off_is_the_default_and_loads_no_sdk() -> None:
    assert open_tracer(TracingSettings(), "adaptsvc") is OFF
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_LOADED], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["serve", "up", "worker"])
def test_an_endpoint_without_the_extra_is_refused_with_what_to_install(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA, command],
        capture_output=True,
        text=True,
        env={"PATH": "", "PYTHONPATH": ".", "ADAPTSVC_TRACING__ENDPOINT": "http://localhost:4318"},
    )
    assert done.returncode == 2
    assert "pip install 'adaptsvc[tracing]'" in done.stderr


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "grpc://collector", "http://", "http://me:secret@collector:4318"]
)
def test_an_endpoint_that_is_none_is_refused_without_showing_credentials(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"tracing\.endpoint") as refused:
        config.read(tracing={"endpoint": endpoint})
    assert "secret" not in str(refused.value)
