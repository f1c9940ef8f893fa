"""Claims about sending spans: to a real collector, to one that fails, and to none."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

import pytest

from adaptsvc.config import Settings
from adaptsvc.tracers import open_tracer
from adaptsvc.tracing_section import TracingSettings
from tests.adaptsvc.serving.bench import RAW, Stand
from tests.adaptsvc.tracing_bench import PATIENCE_S, STAGES, collecting


def nowhere() -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def silent() -> object:
    """An endpoint that accepts and never answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


@pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
def test_the_spans_of_a_request_come_to_a_collector(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    with collecting() as collector:
        settings = TracingSettings(endpoint=collector.endpoint, flush_s=PATIENCE_S)
        tracer = open_tracer(settings, "adaptsvc-service")
        with Stand(prepared, tracer=tracer).client() as client:
            client.post("/v1/classify", content=png(0), headers=RAW)
        tracer.close(settings.flush_s)
    assert sorted(collector.spans) == sorted(["POST /v1/classify", *STAGES])
    assert collector.services == {"adaptsvc-service"}


@pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_without_a_collector_every_request_is_answered_and_the_end_is_not_waited_for(
    prepared: Settings,
    png: Callable[[int], bytes],
    silent: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")  # it tries while requests are answered
    endpoint = nowhere() if kind == "dead" else silent
    tracer = open_tracer(TracingSettings(endpoint=endpoint, timeout_s=PATIENCE_S), "adaptsvc")
    with Stand(prepared, tracer=tracer).client() as client:
        answers = [client.post("/v1/classify", content=png(k), headers=RAW) for k in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    started = time.monotonic()
    tracer.close(0.2)
    assert time.monotonic() - started < PATIENCE_S / 2


def test_spans_that_do_not_arrive_are_said_once_and_once_that_they_do(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with collecting() as collector, caplog.at_level(logging.DEBUG, "adaptsvc"):
        collector.status = 400  # it is not tried again
        tracer = open_tracer(TracingSettings(endpoint=collector.endpoint), "adaptsvc")
        for status in (400, 400, 200):
            collector.status = status
            before = collector.requests
            deadline = time.monotonic() + PATIENCE_S
            while collector.requests < before + 2:
                assert time.monotonic() < deadline
                with tracer.begin("replay"):
                    time.sleep(0.005)
        tracer.close(PATIENCE_S)
    said = [record.levelname for record in caplog.records if record.name.startswith("adaptsvc")]
    assert said == ["ERROR", "WARNING"]
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry.exporter")]


def test_spans_that_wait_are_bounded_and_said_to_be_dropped_once(
    silent: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TracingSettings(endpoint=silent, queue_spans=512, timeout_s=PATIENCE_S)
    tracer = open_tracer(settings, "adaptsvc")
    for _ in range(3000):
        with tracer.begin("replay"):
            pass
    full = [record for record in caplog.records if "full" in record.getMessage()]
    assert len(full) <= 1
    tracer.close(0.1)
