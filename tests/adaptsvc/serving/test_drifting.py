"""Claims about GET /v1/drift and the gauges of drift: what the worker wrote is told, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from adaptsvc.config import Settings
from adaptsvc.drift_summary import SIGNALS, DriftSummary, Reference, nothing_yet
from adaptsvc.prometheus import PrometheusObserver
from adaptsvc.serving.drifting import DriftDesk
from adaptsvc.versions.board import FileBoard
from tests.adaptsvc.serving.bench import Stand

pytestmark = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
THRESHOLD = 11.0


def summary(alarm: str = "", effect: float = 0.25) -> DriftSummary:
    quiet = nothing_yet(THRESHOLD)
    found = tuple(
        each.model_copy(
            update={"effect": effect, "alarm": each.signal == alarm, "since": AT}
            if each.signal == alarm
            else {"effect": effect}
        )
        for each in quiet.signals
    )
    reference = Reference(version=3, images=512, built_at=AT)
    return quiet.model_copy(update={"reference": reference, "images": 70, "signals": found})


@pytest.fixture
def board(prepared: Settings) -> FileBoard:
    return FileBoard(prepared.board)


@pytest.fixture
def client(prepared: Settings) -> Iterator[TestClient]:
    with Stand(prepared).client() as client:
        yield client


def test_before_any_worker_has_spoken_every_signal_is_there_and_none_is_an_alarm(
    client: TestClient,
) -> None:
    body = client.get("/v1/drift").json()
    assert (body["model_version"], body["reference"], body["images"]) == (0, None, 0)
    assert [each["signal"] for each in body["signals"]] == list(SIGNALS)
    assert not any(each["alarm"] for each in body["signals"])
    assert {each["value"] for each in body["signals"]} == {None}


def test_what_the_worker_wrote_is_answered_beside_the_version_that_serves(
    client: TestClient, board: FileBoard
) -> None:
    board.write(summary("ood").model_dump_json().encode())
    body = client.get("/v1/drift").json()
    assert body["model_version"] == 0
    assert body["reference"]["version"] == 3
    (ood,) = (each for each in body["signals"] if each["signal"] == "ood")
    assert (ood["alarm"], ood["effect"], ood["threshold"]) == (True, 0.25, THRESHOLD)
    assert datetime.fromisoformat(ood["since"]) == AT


@pytest.mark.parametrize("content", [b"", b"{}", b'{"images": 3}', b"\xff"])
def test_what_is_no_summary_is_a_503_that_says_what_to_do(
    client: TestClient, board: FileBoard, content: bytes
) -> None:
    board.write(content)
    answer = client.get("/v1/drift")
    assert (answer.status_code, answer.json()["error"]["field"]) == (503, "state")
    assert "service and worker of one version" in answer.json()["error"]["message"]


def test_the_gauges_follow_what_the_worker_writes_and_stay_when_it_cannot_be_read(
    prepared: Settings, board: FileBoard
) -> None:
    registry = CollectorRegistry()
    desk = DriftDesk(board, THRESHOLD, PrometheusObserver(registry))

    def gauges(signal: str) -> list[float | None]:
        labels = {"signal": signal}
        names = ("adaptsvc_drift", "adaptsvc_drift_alarm")
        return [registry.get_sample_value(name, labels) for name in names]

    desk.poll()
    assert gauges("ood") == [None, None], "nothing was said yet"
    board.write(summary("ood").model_dump_json().encode())
    desk.poll()
    assert [gauges("ood"), gauges("decode")] == [[0.25, 1], [0.25, 0]]
    board.write(b"{")
    desk.poll()
    assert gauges("ood") == [0.25, 1]
    board.write(summary(effect=0.5).model_dump_json().encode())
    desk.poll()
    assert gauges("ood") == [0.5, 0]
