"""Claims about the last spans of real processes: a service and a worker that are told to end send them.

OpenTelemetry would send every few seconds. Here it waits for ten minutes, so what arrives was sent by the end
of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from adaptsvc.versions.pointer import FilePointer
from streams.message import NewMessage
from tests.adaptsvc.tracing_bench import STAGES, Collector, collecting
from tests.system import System, system

__all__ = ["system"]  # the fixture
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True),
]
END_S = WAIT_S = 240


@pytest.fixture
def collector(system: System) -> Iterator[Collector]:
    """It takes what the processes of the system send."""
    with collecting() as found:
        system.environment |= {
            "ADAPTSVC_TRACING__ENDPOINT": found.endpoint,
            "ADAPTSVC_TRACING__FLUSH_S": "60",  # for a machine that is busy with other things
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }
        yield found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_is_told_to_end_sends_the_spans_of_its_last_requests(
    system: System, collector: Collector, png: Callable[[int], bytes], workers: int
) -> None:
    serve = system.settings.serve.model_copy(update={"workers": workers})
    system.settings = system.settings.model_copy(update={"serve": serve})
    service = system.start_service()
    system.wait(system.ready, "the service is ready", WAIT_S)
    for number in range(4):
        assert system.classify(png(number)).status_code == 200
    assert collector.spans == []
    service.process.terminate()
    assert service.process.wait(END_S) == 0
    assert sorted(collector.spans) == sorted(4 * ["POST /v1/classify", *STAGES])
    assert collector.services == {"adaptsvc-service"}


def test_a_worker_that_is_told_to_end_sends_the_spans_of_its_last_round(
    system: System, collector: Collector, png: Callable[[int], bytes]
) -> None:
    worker = system.start_worker()
    log, pointer = system.log(), FilePointer(system.settings.pointer)
    log.append("images.unlabeled", [NewMessage(f"i{n}", png(n)) for n in range(16)])
    system.wait(lambda: pointer.read().version == 1, "version 1 is promoted", WAIT_S)
    assert collector.spans == []
    worker.process.terminate()
    assert worker.process.wait(END_S) == 0
    assert collector.spans.count("round") == 1
    assert {"receive", "adapt", "export", "guard", "publish", "promote"} <= {*collector.spans}
    assert collector.services == {"adaptsvc-worker"}
    log.close()
