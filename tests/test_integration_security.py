"""Claims about the service as strangers meet it: a real BentoML process with keys, its access log on."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from adaptsvc.config import Settings
from adaptsvc.processes import Child, service_command, service_environment, settings_environment
from adaptsvc.serving.keys import new_key
from adaptsvc.versions.pointer import FilePointer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True),
]
DATA, DATA_HASH = new_key("phone", "data")
ADMIN, ADMIN_HASH = new_key("ops", "admin")
FORGED = "/v1/x%0a2026-01-01T00:00:00%20[INFO]%20[cli]%20all%20is%20well%1b[2J"
TRIES_S = 120.0


class Service:
    """One service process on a free port, with its log in a file."""

    def __init__(self, settings: Settings, host: str, **overrides: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        serve = settings.serve.model_copy(update={"port": port, "workers": 1, "host": host})
        settings = settings.model_copy(update={"serve": serve})
        self.log = settings.home / "service.log"
        environment = {
            **settings_environment(
                {
                    "home": str(settings.home),
                    "model": settings.model,
                    "classes": json.dumps(settings.classes),
                    "serve.poll_interval_s": "0.1",
                    **overrides,
                }
            ),
            **service_environment(settings),
        }
        options = environment["BENTOML_CONFIG_OPTIONS"].replace(
            "access.enabled=false", "access.enabled=true"
        )
        environment["BENTOML_CONFIG_OPTIONS"] = options
        self.child = Child.start("service", service_command(settings), environment, self.log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + TRIES_S
        while time.monotonic() < deadline:
            try:
                if self.client.get("/readyz").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        pytest.fail(self.log.read_text()[-3000:])

    def close(self) -> None:
        self.client.close()
        self.child.stop(5)


@pytest.fixture
def start(prepared: Settings) -> Iterator[Callable[..., Service]]:
    services: list[Service] = []

    def make(host: str = "127.0.0.1", **overrides: str) -> Service:
        services.append(Service(prepared, host, **overrides))
        services[-1].wait_until_ready()
        return services[-1]

    yield make
    for service in services:
        service.close()


def test_nothing_goes_round_the_keys_and_no_key_is_ever_logged(
    start: Callable[..., Service], prepared: Settings, png: Callable[[int], bytes]
) -> None:
    keys = json.dumps([str(DATA_HASH), str(ADMIN_HASH)])
    service = start("0.0.0.0", **{"serve.keys": keys})
    ask, data = service.client, {"x-api-key": DATA}
    raw = {"content-type": "image/png"}
    for path in ("/", "/metrics", "/docs.json", "/schema.json", "/static_content/", "/v1/model"):
        assert ask.get(path).status_code == 401, path
    assert ask.post("/v1/classify", content=png(0), headers=raw).status_code == 401
    assert [ask.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]
    answer = ask.post("/v1/classify", content=png(0), headers={**raw, **data})
    assert answer.json()["model_version"] == 0
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    for number in range(50):
        assert ask.get(f"/no/{number}").status_code == 401
    metrics = ask.get("/metrics", headers=data).text
    assert metrics.count("adaptsvc_denied_total") > 0
    assert '"/no/' not in metrics, "the paths of strangers are no series"
    assert re.search(
        r'request_total\{endpoint="other",http_response_code="401",[^}]*\} [5-9]\d', metrics
    )
    assert ask.post("/v1/versions/0/pin", headers=data).status_code == 403
    admin = {"authorization": f"Bearer {ADMIN}"}
    assert ask.post("/v1/versions/0/activate", headers=admin, params={"hold": 1}).status_code == 200
    assert FilePointer(prepared.pointer).read().held
    assert 'endpoint="/v1/versions/{id}/pin"' in ask.get("/metrics", headers=data).text
    head = {**data, "x-long": "x" * 400_000}
    assert ask.get("/v1/model", headers=head).status_code == 431, "the protocol is ours"
    ask.get(FORGED, headers=data)
    form = {"images\r\nforged: line": ("a\nb.png", png(0), "image/png")}
    assert ask.post("/v1/classify", files=form, headers=data).status_code in (400, 422)
    large = ask.post("/schema.json", content=b"x" * (11 * 2**20), headers=data)
    assert large.status_code == 404, "a route of BentoML that takes no body reads none"
    service.close()
    said = service.log.read_text()
    assert "path=/v1/classify" in said, "the access log is on"
    assert "key ops: version 0 serves and is held" in said
    assert DATA not in said
    assert ADMIN not in said
    assert "\x1b" not in said
    assert not [line for line in said.splitlines() if line.startswith("2026-01-01")]


def test_started_by_bentoml_for_everybody_it_answers_this_machine_alone_without_keys(
    start: Callable[..., Service],
) -> None:
    service = start("0.0.0.0", **{"serve.host": "127.0.0.1"})
    assert service.client.get("/v1/model").status_code == 200
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        outside = probe.getsockname()[0]
    port = service.client.base_url.port
    answer = httpx.get(f"http://{outside}:{port}/v1/model", headers={"host": "localhost"})
    assert answer.status_code == 403
    assert "serve.keys" in answer.json()["error"]["message"]
    assert httpx.get(f"http://{outside}:{port}/livez").status_code == 200


def test_versions_are_held_pinned_compared_and_pruned_from_the_command_line(
    prepared: Settings,
) -> None:
    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = settings_environment({"home": str(prepared.home), "model": prepared.model})
        return subprocess.run(
            [sys.executable, "-m", "adaptsvc", "versions", *arguments],
            env={**os.environ, **environment, **settings},
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert run("activate", "0", "--hold").stdout == "version 0 serves from now on, held\n"
    assert run("pin", "0").stdout == "version 0 is pinned\n"
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["serving"], listed["pinned"], listed["condition"]) == (True, True, "kept")
    same = json.loads(run("diff", "0", "0", "--json").stdout)
    assert (same["fields"], same["metrics"]) == ({}, {})
    plan = json.loads(run("prune", "--dry-run", "--json").stdout)
    assert plan == {"removed": [], "kept": {"0": "serves"}}
    assert run("prune").returncode == 0
    assert run("sign", "0").returncode == 2
    key = {"ADAPTSVC_VERSIONS__SIGNING_KEYS": "k" * 32}
    refused = run("show", "0", **key)
    assert refused.returncode == 1
    assert "is not signed" in refused.stderr
    assert "k" * 32 not in refused.stderr
    assert run("sign", "--all", **key).stdout == "version 0 is signed\n"
    assert json.loads(run("show", "0", **key).stdout)["id"] == 0
    assert run("unpin", "7").returncode == 1
