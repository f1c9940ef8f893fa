"""Claims about `adaptsvc doctor`: what it finds, what it advises, its status, and what it never prints."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from adaptsvc import doctor
from adaptsvc.clip import lite
from adaptsvc.config import Settings
from adaptsvc.doctor import Finding, examine, meminfo, memory_limit, source_of
from adaptsvc.sections import StateSettings, VersionsSettings
from adaptsvc.serve_section import ServeSettings
from adaptsvc.serving.keys import new_key
from adaptsvc.types import Task
from adaptsvc.versions.tasks import FileTasks
from tests.adaptsvc.test_cli import run
from tests.conftest import free_port

VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
SECRETS = ("correct-horse-battery-staple-0123456789", "hunter2-hunter2")


def one(findings: Iterable[Finding]) -> Finding:
    (found,) = findings
    return found


def named(findings: Iterable[Finding], name: str) -> Finding:
    return one(each for each in findings if each.name == name)


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(home=tmp_path / "home", **values)


def test_a_fresh_installation_is_sound_and_nothing_is_made(tmp_path: Path) -> None:
    findings = examine(settings(tmp_path), {})
    assert {each.name for each in findings} >= {
        *("settings", "python", "torch", "onnxruntime", "provider", "cores", "threads"),
        *("memory", "model", "home", "stream", "state", "keys", "signing", "port"),
    }
    assert [each for each in findings if each.level == "error"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_a_warning_as_it_may_be_the_service(tmp_path: Path) -> None:
    asked = settings(tmp_path, serve=ServeSettings(port=free_port()))
    assert one(doctor.port(asked)).level == "ok"
    with socket.create_server(("127.0.0.1", asked.serve.port)):
        found = one(doctor.port(asked))
    assert (found.level, "already in use" in found.found) == ("warning", True)


@VIT
def test_what_serves_is_verified(prepared: Settings) -> None:
    found = named(doctor.state(prepared), "version")
    assert (found.level, found.found[:10]) == ("ok", "0 serves: ")
    damaged = prepared.store / "versions" / "000000" / "head.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    found = named(doctor.state(prepared), "version")
    assert (found.level, "versions activate" in found.advice) == ("error", True)


@VIT
def test_a_base_model_that_was_altered_is_an_error(prepared: Settings) -> None:
    (graph,) = (prepared.store / "base").glob("*/model.onnx")
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes()[:-1])
    assert named(doctor.state(prepared), "version").level == "error"


@VIT
def test_classes_that_wait_for_a_worker_are_a_warning(prepared: Settings) -> None:
    FileTasks(prepared.tasks).ask(Task(("ship", "frog"), "a photo of a {}."))
    found = named(doctor.state(prepared), "classes")
    assert (found.level, found.found) == ("warning", "request 1 for 2 classes waits")


def test_a_device_that_is_asked_for_and_missing_is_an_error_with_the_reason(tmp_path: Path) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("there is a GPU")
    asked = settings(tmp_path, serve=ServeSettings(device="cuda"))
    found = named(doctor.inference(asked), "provider")
    assert (found.level, "CUDAExecutionProvider does not run: " in found.found) == ("error", True)
    assert "serve.device" in found.advice
    allowed = settings(tmp_path, serve=ServeSettings(device="cuda", fallback=True))
    found = named(doctor.inference(allowed), "provider")
    assert (found.level, found.found[:20]) == ("warning", "CPUExecutionProvider")


def test_half_precision_on_a_cpu_is_a_warning(tmp_path: Path) -> None:
    asked = settings(tmp_path, serve=ServeSettings(precision="float16"))
    assert named(doctor.inference(asked), "precision").level == "warning"
    assert [f.name for f in doctor.inference(settings(tmp_path))] == ["onnxruntime", "provider"]


def test_torch_that_is_not_installed_is_told_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "installed", lambda _package: "")
    found = one(doctor.torch(settings(tmp_path)))
    assert (found.level, found.found) == ("warning", "not installed")
    assert "adaptsvc[learn]" in found.advice


def test_more_inference_threads_than_cores_are_a_warning(tmp_path: Path) -> None:
    many = settings(tmp_path, serve=ServeSettings(workers=64, threads=64))
    assert named(doctor.cores(many), "threads").level == "warning"
    few = settings(tmp_path, serve=ServeSettings(workers=1, threads=1))
    assert named(doctor.cores(few), "threads").level == "ok"


def test_the_bundled_model_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(tmp_path)
    assert one(doctor.model(asked)).level == "ok"
    for name in lite.DIGESTS:
        shutil.copy(lite.DIRECTORY / name, tmp_path / name)
    with (tmp_path / "open_clip_config.json").open("a") as file:
        file.write(" ")
    monkeypatch.setattr(lite, "DIRECTORY", tmp_path)
    found = one(doctor.model(asked))
    assert (found.level, "open_clip_config.json altered" in found.found) == ("error", True)


def test_a_model_folder_without_a_model_is_an_error(
    tmp_path: Path, tiny_vit_directory: Path
) -> None:
    missing = settings(tmp_path, model=f"local-dir:{tmp_path}")
    assert one(doctor.model(missing)).level == "error"
    there = settings(tmp_path, model=f"local-dir:{tiny_vit_directory}")
    assert one(doctor.model(there)).level == "ok"


def test_a_home_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = one(doctor.home(Settings(home=tmp_path / "file" / "home")))
    assert (found.level, "cannot be written" in found.found) == ("error", True)
    found = one(doctor.home(settings(tmp_path)))
    assert (found.level, "which will be made: writable" in found.found) == ("ok", True)


def test_a_stream_that_is_no_stream_is_an_error_and_a_sound_one_is_opened(tmp_path: Path) -> None:
    sound = settings(tmp_path)
    sound.home.mkdir()
    sqlite3.connect(sound.stream_file).close()
    assert one(doctor.stream(sound)).level == "ok"
    sound.stream_file.write_bytes(b"no database, by any means" * 100)
    assert one(doctor.stream(sound)).level == "error"


def test_a_redis_that_does_not_answer_is_an_error_without_the_password(tmp_path: Path) -> None:
    state = StateSettings(
        kind="redis", url=f"redis://127.0.0.1:{free_port()}/0", password=SECRETS[1], timeout_s=0.5
    )
    found = one(doctor.state(settings(tmp_path, state=state)))
    assert (found.level, "does not answer" in found.found) == ("error", True)
    assert SECRETS[1] not in found.found


def test_a_redis_that_answers_is_ok(tmp_path: Path, redis_settings: StateSettings) -> None:
    findings = list(doctor.state(settings(tmp_path, state=redis_settings)))
    assert named(findings, "state").level == "ok"
    assert named(findings, "version").found == "none serves yet"


def test_listening_to_others_without_a_key_is_an_error(tmp_path: Path) -> None:
    open_ = settings(tmp_path, serve=ServeSettings(host="0.0.0.0"))
    assert named(doctor.access(open_), "keys").level == "error"
    _, known = new_key("ops", "admin")
    closed = settings(tmp_path, serve=ServeSettings(host="0.0.0.0", keys=(str(known),)))
    found = named(doctor.access(closed), "keys")
    assert (found.level, found.found) == ("ok", "1 admin and 0 data; it listens on 0.0.0.0")
    assert known.sha256 not in found.found


def test_a_short_signing_key_is_an_error_that_does_not_show_it(tmp_path: Path) -> None:
    short = settings(tmp_path, versions=VersionsSettings(signing_keys="too-short"))
    found = named(doctor.access(short), "signing")
    assert (found.level, "too-short" in found.found) == ("error", False)


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_settings: Settings) -> Iterable[Finding]:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctor, "CHECKS", (broken, doctor.home))
    findings = examine(settings(tmp_path), {})
    assert [(each.name, each.level) for each in findings[1:]] == [
        ("broken", "error"),
        ("home", "ok"),
    ]


def test_sources_are_told_by_name_alone() -> None:
    environment = {"ADAPTSVC_CONFIG": "/etc/a.yaml", "ADAPTSVC_STATE__PASSWORD": SECRETS[1]}
    found = source_of({**environment, "PATH": "/bin"}).found
    assert found == "environment (ADAPTSVC_STATE__PASSWORD) over /etc/a.yaml over defaults"
    assert source_of({}).found == "defaults"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "1048576\n"}, 2**20),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({"memory/memory.limit_in_bytes": "2097152", "memory.max": "max"}, 2**21),
    ],
)
def test_the_memory_limit_is_read_from_either_version_of_control_groups(
    tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path, tmp_path / "none") == expected


def test_free_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemFree: 1 kB\nMemAvailable: 4 kB\n")
    assert meminfo(tmp_path / "meminfo") == (8192, 4096)


@VIT
def test_the_command_prints_no_secret_and_its_status_says_whether_it_can_work(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    environment = {
        "ADAPTSVC_VERSIONS__SIGNING_KEYS": SECRETS[0],
        "ADAPTSVC_STATE__PASSWORD": SECRETS[1],
    }
    done = run(prepared, "doctor", "--json", **environment)
    body = json.loads(done.stdout)
    levels = {each["name"]: each["level"] for each in body["findings"]}
    assert (done.returncode, body["ok"]) == (1, False), "version 0 is not signed"
    assert levels["version"] == "error"
    table = run(prepared, "doctor", **environment)
    assert not any(secret in done.stdout + table.stdout + table.stderr for secret in SECRETS)
    sound = run(prepared, "doctor")
    assert sound.returncode == 0, sound.stdout
    assert "version" in sound.stdout


def test_settings_that_cannot_be_read_are_an_error_line(tmp_path: Path) -> None:
    done = run(settings(tmp_path), "doctor", "--json", ADAPTSVC_LERN__PASSES="1")
    (found,) = json.loads(done.stdout)["findings"]
    assert (done.returncode, found["level"], found["name"]) == (1, "error", "settings")
