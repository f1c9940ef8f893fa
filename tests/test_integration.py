"""Claims about the whole, with real processes: service, worker, stream and store on this machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from adaptsvc.checkpoint import load as load_checkpoint
from adaptsvc.config import Settings
from adaptsvc.versions.pointer import FilePointer
from streams.message import NewMessage, TopicPartition
from streams.topics import load_topics
from tests.system import RAW, System, system

__all__ = ["system"]  # the fixture

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True),  # BatchNorm, as lite
]


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


def test_killing_up_ends_both(system: System) -> None:
    supervisor = system._start("up", [sys.executable, "-m", "adaptsvc", "up"], system.environment)
    system.wait(system.ready, "the service is ready")
    supervisor.process.kill()
    home = system.settings.home
    system.wait(lambda: _processes_of(home) == [], "no process is left", 40)


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
