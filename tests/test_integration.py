"""Claims about the whole, with real processes: service, worker, stream and store on this machine."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from adaptsvc.checkpoint import load as load_checkpoint
from adaptsvc.config import Settings
from adaptsvc.processes import (
    Child,
    service_command,
    service_environment,
    settings_environment,
    worker_command,
)
from adaptsvc.versions.pointer import FilePointer
from streams.message import NewMessage, TopicPartition
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.conftest import GUARD, free_port

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True),  # BatchNorm, as lite
]
RAW = {"content-type": "image/png"}


@dataclass
class System:
    """A service and a worker on one home, as `adaptsvc up` runs them."""

    settings: Settings
    environment: dict[str, str]
    children: list[Child] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.serve.port}"

    def start_service(self) -> Child:
        environment = {**self.environment, **service_environment(self.settings)}
        return self._start("service", service_command(self.settings), environment)

    def start_worker(self) -> Child:
        return self._start("worker", worker_command(), self.environment)

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> Child:
        child = Child.start(name, command, environment, self.settings.home / f"{name}.log")
        self.children.append(child)
        return child

    def wait(self, holds: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                logs = [
                    p.read_text(errors="replace")[-2000:] for p in self.settings.home.glob("*.log")
                ]
                pytest.fail(f"not within {timeout_s} s: {what}\n" + "\n".join(logs))
            time.sleep(0.1)

    def ready(self) -> bool:
        try:
            return httpx.get(self.url + "/readyz").is_success
        except httpx.TransportError:
            return False

    def classify(self, data: bytes) -> httpx.Response:
        return httpx.post(self.url + "/v1/classify", content=data, headers=RAW, timeout=20)

    def metrics(self) -> str:
        return httpx.get(self.url + "/metrics").text

    def serving(self) -> int:
        return int(httpx.get(self.url + "/v1/model").json()["model_version"])

    def log(self) -> SqliteLog:
        return SqliteLog(self.settings.stream_file, load_topics())


@pytest.fixture
def system(prepared: Settings) -> Iterator[System]:
    port = free_port()
    overrides = {
        "home": str(prepared.home),
        "model": prepared.model,
        "classes": json.dumps(prepared.classes),
        "serve.port": str(port),
        "serve.poll_interval_s": "0.1",
        "learn.round_images": "16",
        "learn.window_images": "32",
        "learn.batch_images": "8",
        "learn.passes": "1",
        "learn.niceness": "0",
        **{f"guard.{key}": str(value) for key, value in GUARD.items()},
    }
    serve = prepared.serve.model_copy(update={"port": port, "workers": 1})
    system = System(prepared.model_copy(update={"serve": serve}), settings_environment(overrides))
    yield system
    for child in system.children:
        child.stop(5)


def test_images_streamed_past_become_a_version_that_serves(
    system: System, png: Callable[[int], bytes]
) -> None:
    system.start_service()
    system.start_worker()
    system.wait(system.ready, "the service is ready")
    assert system.classify(png(0)).json()["model_version"] == 0
    log = system.log()
    log.append("images.unlabeled", [NewMessage(f"i{n}", png(n)) for n in range(16)])
    system.wait(lambda: system.serving() == 1, "version 1 serves")
    assert system.classify(png(0)).json()["model_version"] == 1
    metrics = httpx.get(system.url + "/metrics").text
    assert "adaptsvc_predictions_total" in metrics
    assert 'adaptsvc_swaps_total{outcome="ok"} 2.0' in metrics
    log.close()


def test_two_ranks_under_torchrun_learn_a_version_and_end_together(
    system: System, png: Callable[[int], bytes]
) -> None:
    """Rank 1 reads no stream: it takes its half of every batch and leaves when rank 0 does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "adaptsvc", "worker"]
    launcher = system._start("worker", command, system.environment)
    log = system.log()
    log.append("images.unlabeled", [NewMessage(f"i{n}", png(n)) for n in range(16)])
    pointer = FilePointer(system.settings.pointer)
    system.wait(lambda: pointer.read().version == 1, "version 1 is promoted")
    launcher.process.terminate()
    launcher.process.wait(40)
    assert _processes_of(system.settings.home) == []
    log.close()


def test_answered_images_are_published_and_counted_over_all_service_processes(
    system: System, png: Callable[[int], bytes]
) -> None:
    system.environment["ADAPTSVC_SAMPLE__FRACTION"] = "1"
    system.environment["ADAPTSVC_SAMPLE__PER_SECOND"] = "1000"
    serve = system.settings.serve.model_copy(update={"workers": 2})
    system.settings = system.settings.model_copy(update={"serve": serve})
    service = system.start_service()
    system.wait(system.ready, "the service is ready")
    answers = [system.classify(png(number)) for number in range(24)]
    expected = {answer.json()["results"][0]["image_id"] for answer in answers}
    counted = 'adaptsvc_samples_total{outcome="published"} 24.0'
    system.wait(
        lambda: counted in httpx.get(system.url + "/metrics").text, "24 samples are counted"
    )
    last = system.classify(png(99)).json()["results"][0]["image_id"]
    service.stop()  # what waits is published first
    log = system.log()
    partitions = load_topics().partitions(["images.unlabeled"])
    found = [m.key for p in partitions for m in log.read(p, offset=0, limit=100)]
    log.close()
    assert sorted(found) == sorted({*expected, last})


def test_sigterm_lets_the_worker_checkpoint_and_exit_with_0(
    system: System, png: Callable[[int], bytes]
) -> None:
    worker = system.start_worker()
    log = system.log()
    log.append("images.unlabeled", [NewMessage(f"i{n}", png(n)) for n in range(5)])
    system.wait(lambda: sum(_read_so_far(system.settings).values()) == 5, "five images are read")
    worker.process.terminate()
    assert worker.process.wait(20) == 0
    log.close()


@pytest.mark.parametrize("name", ["manifest.json", "delta.safetensors", "head.safetensors"])
def test_a_service_refuses_an_altered_version_says_why_and_serves_the_old_one(
    system: System, png: Callable[[int], bytes], name: str
) -> None:
    worker = system.start_worker()
    log = system.log()
    log.append("images.unlabeled", [NewMessage(f"i{n}", png(n)) for n in range(16)])
    pointer = FilePointer(system.settings.pointer)
    system.wait(lambda: pointer.read().version == 1, "version 1 is promoted")
    worker.stop()
    pointer.force(0)
    system.start_service()
    system.wait(system.ready, "the service is ready")
    path = system.settings.store / "versions" / "000001" / name
    path.write_bytes(path.read_bytes()[:-7])
    pointer.force(1)
    system.wait(
        lambda: httpx.get(system.url + "/v1/model").json()["refused"] is not None, "it is refused"
    )
    body = httpx.get(system.url + "/v1/model").json()
    assert body["model_version"] == 0
    assert "version 1" in body["refused"]
    assert system.classify(png(0)).json()["model_version"] == 0
    log.close()


def test_feedback_given_before_its_images_survives_a_kill_and_finds_them(
    system: System, png: Callable[[int], bytes]
) -> None:
    """Two service processes take labels; the worker is killed while they wait for their images."""
    serve = system.settings.serve.model_copy(update={"workers": 2})
    system.settings = system.settings.model_copy(update={"serve": serve})
    system.environment["ADAPTSVC_LEARN__CHECKPOINT_INTERVAL_S"] = "0.2"
    system.start_service()
    worker = system.start_worker()
    system.wait(system.ready, "the service is ready")
    for number in range(6):
        with httpx.Client() as client:
            said = {"image_id": f"i{number}", "label": "cat"}
            assert client.post(system.url + "/v1/feedback", json=said).status_code == 202
    system.wait(lambda: len(_waiting(system.settings)) == 6, "the labels wait, checkpointed")
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    system.start_worker()
    log = system.log()
    log.append("images.unlabeled", [NewMessage(f"i{n}", png(n)) for n in range(5)])
    system.wait(lambda: _waiting(system.settings) == ["i5"], "five labels found images", 200)
    labels = load_checkpoint(system.settings.checkpoint).labels
    assert {(each.image_id, each.label) for each in labels} == {(f"i{n}", "cat") for n in range(5)}
    assert log.read(TopicPartition("images.deadletter", 0), offset=0, limit=10) == ()
    log.close()


def test_two_service_processes_follow_the_pointer_and_add_up_their_metrics(
    system: System, png: Callable[[int], bytes]
) -> None:
    serve = system.settings.serve.model_copy(update={"workers": 2})
    system.settings = system.settings.model_copy(update={"serve": serve})
    system.start_service()
    system.wait(system.ready, "the service is ready")
    for _ in range(20):
        with httpx.Client() as client:  # a new connection each, so that both processes get some
            response = client.post(system.url + "/v1/classify", content=png(0), headers=RAW)
            assert response.status_code == 200
    metrics = httpx.get(system.url + "/metrics").text
    assert "adaptsvc_batch_images_count 20.0" in metrics
    assert metrics.count("adaptsvc_serving_version{") == 2


def test_two_service_processes_tell_the_same_of_drift_once_and_in_their_metrics(
    system: System, png: Callable[[int], bytes]
) -> None:
    """The worker's first reference is of 96 images; then come messages that are no images."""
    serve = system.settings.serve.model_copy(update={"workers": 2})
    system.settings = system.settings.model_copy(update={"serve": serve})
    system.environment["ADAPTSVC_DRIFT__REFERENCE_IMAGES"] = "96"
    system.environment["ADAPTSVC_LEARN__ROUND_IMAGES"] = "1000"
    system.environment["ADAPTSVC_LEARN__WINDOW_IMAGES"] = "1000"
    system.start_service()
    system.start_worker()
    system.wait(system.ready, "the service is ready")
    log = system.log()
    log.append("images.unlabeled", [NewMessage(f"i{n}", png(n)) for n in range(96)])
    alarm = 'adaptsvc_drift_alarm{signal="decode"}'

    def drift() -> dict[str, object]:
        with httpx.Client() as client:  # a new connection each, so that both processes get some
            found: dict[str, object] = client.get(system.url + "/v1/drift").json()
            return found

    system.wait(lambda: drift()["reference"] is not None, "there is a reference")
    log.append("images.unlabeled", [NewMessage(f"b{n}", b"no image") for n in range(24)])
    system.wait(lambda: f"{alarm} 1.0" in system.metrics(), "the alarm is in the metrics")
    answers = [drift() for _ in range(12)]
    assert all(answer == answers[0] for answer in answers)
    signals = {s["signal"]: s["alarm"] for s in answers[0]["signals"]}  # type: ignore[attr-defined]
    assert [name for name, alarmed in signals.items() if alarmed] == ["decode"]
    assert system.metrics().count(alarm) == 1, "one value, not one per process"
    log.close()


def test_bad_input_is_a_4xx_naming_the_field_and_the_service_lives(
    system: System, png: Callable[[int], bytes]
) -> None:
    system.start_service()
    system.wait(system.ready, "the service is ready")
    header = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    start = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"
    bomb = start + header + zlib.crc32(header).to_bytes(4, "big")
    url = system.url + "/v1/classify"
    jpeg = {"content-type": "image/jpeg"}
    for response, status, named in [
        (httpx.post(url, content=b"text", headers=jpeg), 400, "body"),
        (httpx.post(url, content=b"", headers=jpeg), 400, "body"),
        (httpx.post(url, content=bomb, headers=RAW), 413, "body"),
        (httpx.post(url, content=png(0), headers=RAW, params={"top_k": "all"}), 422, "top_k"),
        (httpx.post(url, json={"url": "http://127.0.0.1"}), 422, "images"),
        (
            httpx.post(url, content="text", headers={"content-type": "text/plain"}),
            415,
            "content-type",
        ),
        (httpx.get(system.url + "/v1/unknown"), 404, "path"),
    ]:
        assert (response.status_code, response.json()["error"]["field"]) == (status, named)
    assert system.classify(png(0)).status_code == 200
    assert httpx.get(system.url + "/livez").status_code == 200


def test_a_service_that_is_told_to_end_under_load_fails_no_request(
    system: System, png: Callable[[int], bytes]
) -> None:
    """Clients stop when an answer closes their connection, as a balancer that asks /readyz would."""
    serve = system.settings.serve.model_copy(update={"workers": 2})
    system.settings = system.settings.model_copy(update={"serve": serve})
    system.environment["ADAPTSVC_SERVE__DRAIN_NOTICE_S"] = "4"
    service = system.start_service()
    system.wait(system.ready, "the service is ready")
    data = [png(number) for number in range(8)]

    answered = [0] * 8

    def ask(number: int) -> tuple[int, bool]:
        with httpx.Client(base_url=system.url, timeout=30) as client:
            while True:
                response = client.post("/v1/classify", content=data[number], headers=RAW)
                answered[number] += 1
                if (asked_to_close := response.headers.get("connection") == "close") or (
                    response.status_code != 200
                ):
                    return response.status_code, asked_to_close

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask, number) for number in range(8)]
        system.wait(lambda: min(answered) > 1, "every client has been answered")
        service.process.terminate()
        system.wait(lambda: not system.ready(), "readiness is gone")
        ends = [client.result(60) for client in clients]
    assert ends == [(200, True)] * 8
    service.process.wait(60)


def test_bodies_too_slow_or_too_large_are_cut_off_and_the_service_lives(
    system: System, png: Callable[[int], bytes]
) -> None:
    system.environment["ADAPTSVC_SERVE__BODY_S"] = "0.3"
    system.start_service()
    system.wait(system.ready, "the service is ready")
    for length, status in [(1000, b"408"), (200 * 2**20, b"413")]:
        with socket.create_connection(("127.0.0.1", system.settings.serve.port), 30) as slow:
            head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            slow.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + b"x" * 10)
            answer = b"".join(iter(lambda: slow.recv(4096), b""))  # up to the end of the connection
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"retry-after" not in answer.lower()
    assert system.classify(png(0)).status_code == 200
    assert httpx.get(system.url + "/livez").status_code == 200
    metrics = httpx.get(system.url + "/metrics").text
    assert 'adaptsvc_shed_total{reason="slow_body"} 1.0' in metrics
    assert 'adaptsvc_stage_seconds_count{stage="queue"} 1.0' in metrics


def test_what_clients_that_went_away_had_sent_is_not_computed(
    system: System, png: Callable[..., bytes]
) -> None:
    """Four requests of 30 large images each, given up as soon as they are inside."""
    system.start_service()
    system.wait(system.ready, "the service is ready")
    images = [{"data": base64.b64encode(png(n, (600, 600))).decode()} for n in range(30)]
    body = json.dumps({"images": images}).encode()
    head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    port = system.settings.serve.port
    with ExitStack() as stack:
        for _ in range(4):
            leaves = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            leaves.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    gone = 'adaptsvc_shed_total{reason="gone"} 4.0'
    system.wait(lambda: gone in system.metrics(), "all four are known to be gone")
    system.wait(lambda: "adaptsvc_inside_images 0.0" in system.metrics(), "nothing is inside")
    counted = [line.split() for line in system.metrics().splitlines()]
    (spared,) = [words[1] for words in counted if words[0] == "adaptsvc_spared_images_total"]
    assert float(spared) >= 30


def test_up_starts_both_and_one_signal_ends_both(
    system: System, png: Callable[[int], bytes]
) -> None:
    command = [sys.executable, "-m", "adaptsvc", "up"]
    supervisor = system._start("up", command, system.environment)
    system.wait(system.ready, "the service is ready")
    assert system.classify(png(0)).status_code == 200
    supervisor.process.send_signal(signal.SIGINT)
    assert supervisor.process.wait(40) == 0
    assert not system.ready()
    assert _processes_of(system.settings.home) == []


def _read_so_far(settings: Settings) -> dict[str, int]:
    return dict(load_checkpoint(settings.checkpoint).offsets)


def _waiting(settings: Settings) -> list[str]:
    return [row[0] for row in load_checkpoint(settings.checkpoint).join.waiting]


def _processes_of(home: Path) -> list[int]:
    """Processes whose environment names this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"ADAPTSVC_HOME={home}".encode() in environment and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found
