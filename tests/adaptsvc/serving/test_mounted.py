"""Claims about which of BentoML's layers a request passes: its real application, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptsvc import config
from adaptsvc.processes import service_environment

PATIENCE_S = 120
TELL = """
from adaptsvc.serving.mounted import CountedByRoute
from adaptsvc.serving.service import Adaptsvc
layer = Adaptsvc.to_asgi().build_middleware_stack()
while not isinstance(layer, CountedByRoute):
    layer = layer.app
print(layer.is_direct)
"""
SERVICE = "services.adaptsvc"
CORS = f"{SERVICE}.http.cors.access_control_allow_origins=https://a.example"


@pytest.mark.parametrize(
    ("instead", "of", "direct"),
    [
        ("", "", True),
        ("logging.access.enabled=true", "logging.access.enabled=false", False),
        ("tracing.excluded_urls=/livez", "tracing.excluded_urls=.*", False),
        (f"workers=1 {SERVICE}.traffic.max_concurrency=3", "workers=1", False),
        (f"workers=1 {SERVICE}.http.cors.enabled=true {CORS}", "workers=1", False),
    ],
)
def test_requests_pass_the_layers_of_bentoml_only_where_one_has_something_to_do(
    tmp_path: Path, instead: str, of: str, direct: bool
) -> None:
    settings = config.read(home=tmp_path, serve={"workers": 1})
    environment = {**os.environ, **service_environment(settings)}
    options = environment["BENTOML_CONFIG_OPTIONS"]
    assert of in options
    environment["BENTOML_CONFIG_OPTIONS"] = options.replace(of, instead) if of else options
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TELL],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert told.stdout.split()[-1] == str(direct)
