"""Claims about docs/runbook.md: what it has people type works on a real service and a real worker.

Every line of its blocks is run in a shell, and what its text says to look at is there. The service has keys,
so `curl` gets the header that the page names. `docker compose` and `kubectl` are `tests.deploy.test_runbook`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from adaptsvc.processes import Child, service_command, service_environment
from adaptsvc.serving.keys import new_key
from tests.conftest import free_port
from tests.deploy.pages import blocks, commands, page, sections
from tests.faults.site import WAIT_S, Site
from tests.streams.broker import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]
KEY, KEY_HASH = new_key("on-call", "data")
HEADER = '-H "X-API-Key: $KEY"'
SETTINGS = {
    "serve.keys": json.dumps([str(KEY_HASH)]),
    "versions.signing_keys": "a-key-of-forty-characters-for-this-test.",
    "drift.reference_images": "32",
}
NOTHING: Mapping[str, str] = {}
SECTIONS = sections(page("runbook"))
TYPED = sorted({line for text in SECTIONS.values() for line in blocks(text)})
RUN = [line for line in TYPED if not line.startswith("docker compose ")]
# Beside what a `grep` asks for: what the text has people look at, in the state that most alerts leave.
SHOWN = {
    "curl -sS HOST/livez": "",
    r"curl -sS -o /dev/null -w '%{http_code}\n' HOST/metrics": "200",
    "curl -sS HOST/readyz": "",
    "curl -sS HOST/v1/model": '"refused":null,"refused_code":null',
    "curl -sS HOST/v1/versions": '"refused":[',
    "curl -sS HOST/v1/drift": '"statistic":',
    "adaptsvc versions list": "serving",
    "adaptsvc versions show N": '"accuracy_estimate"',
    "adaptsvc versions diff N M": "least class similarity",
    "adaptsvc versions prune --dry-run": "why it stays",
    "df -h": "Use%",
}


class Installation:
    """A service with keys and a worker with metrics, and a shell beside them.

    Args:
        folder: of all that they write.
        model: the directory of the CLIP.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self.site = Site(folder, folder / "home", model, SETTINGS)
        self.folder = folder
        self.metrics_port = free_port()
        settings = self.site.settings
        environment = {**self.site.environment, **service_environment(settings)}
        log = folder / "service.log"
        self._service = Child.start("service", service_command(settings), environment, log)
        program = folder / "bin" / "adaptsvc"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m adaptsvc "$@"\n')
        program.chmod(0o755)

    def learn(self) -> None:
        """Versions 1 and 2, a dead letter, and what is known of drift."""
        site = self.site
        site.start_worker({"learn.metrics_port": str(self.metrics_port)})
        site.wait(site.ready, "version 0 serves")
        for version in (1, 2):
            site.send(16, unusable=version % 2)
            self.wait_for(version)
        site.wait(lambda: "adaptsvc_drift{" in self.get("/metrics").text, "drift is in the metrics")

    def wait_for(self, version: int) -> None:
        """Return when it serves."""
        self.site.wait(lambda: self.serving() == version, f"version {version} serves")

    def get(self, path: str) -> httpx.Response:
        """An answer of the service."""
        return httpx.get(self.site.url + path, headers={"x-api-key": KEY}, timeout=WAIT_S)

    def serving(self) -> int:
        """The version that answers."""
        return int(self.get("/v1/model").json()["model_version"])

    def shell(
        self, line: str, others: Mapping[str, str] = NOTHING, *, key: bool = True
    ) -> tuple[int, str]:
        """Status and output of a line of the page, its names filled in."""
        if key:
            line = line.replace("curl ", f"curl {HEADER} ")
        host = self.site.url.removeprefix("http://")
        for name, value in {
            "HOST": host,
            "WORKER": f"127.0.0.1:{self.metrics_port}",
            "N": "1",
            "M": "2",
        }.items():
            line = re.sub(rf"\b{name}\b", value, line)
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        own = {**os.environ, **self.site.environment, "PATH": path, "KEY": KEY, "COLUMNS": "200"}
        own |= {"PYTHONPATH": str(Path(__file__).parents[1])}
        command = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(
            command, env={**own, **others}, cwd=self.folder, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    def typed(self, line: str, others: Mapping[str, str] = NOTHING) -> str:
        """The output of a line; that it worked is asserted."""
        status, said = self.shell(line, others)
        assert status == 0, said
        return said

    def close(self) -> None:
        """End it."""
        self.site.close()
        self._service.stop(5)


@pytest.fixture(scope="module")
def fresh(
    tmp_path_factory: pytest.TempPathFactory, tiny_vit_directory: Path
) -> Iterator[Installation]:
    """It has no version yet."""
    installation = Installation(tmp_path_factory.mktemp("site"), tiny_vit_directory)
    try:
        installation.site.wait(lambda: not installation.site.is_gone(), "it listens")
        yield installation
    finally:
        installation.close()


@pytest.fixture(scope="module")
def early(fresh: Installation) -> dict[str, str]:
    """What the section on readiness shows while there is no version."""
    return {line: fresh.typed(line) for line in blocks(SECTIONS["AdaptsvcServiceNotReady"])}


@pytest.fixture(scope="module")
def installation(fresh: Installation, early: dict[str, str]) -> Installation:
    """It has learned."""
    fresh.learn()
    return fresh


def series(metrics: str) -> str:
    """The lines that have a number."""
    return "\n".join(line for line in metrics.splitlines() if not line.startswith("#"))


def test_a_service_without_a_version_says_so(early: dict[str, str]) -> None:
    assert "no version has been published yet" in early["curl -sS HOST/readyz"]
    assert "no version has been published yet" in early["curl -sS HOST/v1/model"]


@pytest.mark.parametrize("line", RUN)
def test_what_a_section_looks_at_is_there(
    installation: Installation, line: str, tmp_path: Path
) -> None:
    """A line that is neither of our metrics nor in `SHOWN` has nobody who looks."""
    if line == "adaptsvc topics check":
        with Broker(tmp_path) as broker:
            kafka = {"ADAPTSVC_STREAM__KIND": "kafka"}
            kafka["ADAPTSVC_STREAM__KAFKA__SERVERS"] = broker.server
            kafka["ADAPTSVC_STREAM__KAFKA__REPLICATION_FACTOR"] = "1"
            assert installation.shell(line, kafka)[0] == 1
            installation.typed("adaptsvc topics create", kafka)
            assert "as they should be" in installation.typed(line, kafka)
        return
    said = installation.typed(line)
    if found := re.search(r"\| grep (?:-E )?'?([\w()|]+)'?$", line):
        before, inside, after = re.fullmatch(r"(\w*)\(?([\w|]*)\)?(\w*)", found[1]).groups()  # type: ignore[union-attr]
        for name in inside.split("|"):
            assert re.search(rf"{before}{name}{after}.* -?[\d.e+-]+$", series(said), re.M), name
    else:
        assert SHOWN[line] in said


def test_metrics_alone_ask_for_a_key(installation: Installation) -> None:
    line = r"curl -sS -o /dev/null -w '%{http_code}\n' HOST/metrics"
    assert installation.shell(line, key=False) == (0, "401\n")
    assert installation.shell("curl -sSf HOST/livez", key=False)[0] == 0


def test_what_is_buried_says_why_and_goes_back_once(installation: Installation) -> None:
    letters = 'adaptsvc_messages_total{outcome="dead_letter",topic="images.unlabeled"} 1.0'
    assert letters in installation.typed("curl -sS WORKER/metrics | grep dead_letter")
    assert "1 " in installation.typed("adaptsvc replay --from deadletter")
    assert "0 " in installation.typed("adaptsvc replay --from deadletter")


def test_labels_of_a_file_are_sent(installation: Installation) -> None:
    (installation.folder / "FILE.csv").write_text("image,label\ni1,cat\ni2,dog\n")
    assert "2 labels sent" in installation.typed("adaptsvc label FILE.csv")


def test_an_altered_version_is_refused_and_activating_another_ends_it(
    installation: Installation,
) -> None:
    installation.typed("adaptsvc versions activate N --hold")
    installation.wait_for(1)
    path = installation.site.settings.store / "versions" / "000002" / "head.safetensors"
    path.write_bytes((whole := path.read_bytes())[:-7])
    assert "was altered or cut" in installation.shell("adaptsvc versions activate M")[1]
    installation.site.state.pointer.force(2)

    def model() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(installation.typed("curl -sS HOST/v1/model"))
        return found

    installation.site.wait(lambda: model()["refused_code"] == "altered", "it is refused")
    assert model()["model_version"] == 1
    path.write_bytes(whole)
    installation.typed("adaptsvc versions activate N")
    installation.site.wait(lambda: model()["refused"] is None, "it is not refused any more")


def test_what_is_held_is_shown_and_rounds_are_skipped_until_it_is_let_go(
    installation: Installation,
) -> None:
    site = installation.site
    installation.typed("adaptsvc versions activate N --hold")
    assert "held" in installation.typed("adaptsvc versions list")
    site.listen()
    site.send(16)
    site.wait(lambda: "skipped" in site.said(), "a round is skipped")
    assert "held_by_a_person" in site.said()
    installation.typed("adaptsvc versions activate N")
    assert "held" not in installation.typed("adaptsvc versions list")


def test_a_version_is_signed_and_its_round_runs_again(installation: Installation) -> None:
    assert "version 1 is signed" in installation.typed("adaptsvc versions sign N")
    assert "version 1" in installation.typed("adaptsvc versions reproduce N")


def test_versions_are_pruned_with_the_worker_stopped(installation: Installation) -> None:
    status, said = installation.shell("adaptsvc versions prune")
    assert status == 1
    assert "stop it first" in said
    installation.site.worker.terminate()
    installation.site.worker.join(WAIT_S)
    assert installation.site.worker.exitcode == 0
    assert "deleted" in installation.typed("adaptsvc versions prune")


def test_every_command_of_ours_that_is_named_is_run_above() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    run = {*RUN, "adaptsvc serve", "adaptsvc worker", "adaptsvc ..."}  # the last is any of them
    assert [
        each
        for each in commands("adaptsvc", "runbook")
        if each not in run and f'"{each}"' not in text
    ] == []
