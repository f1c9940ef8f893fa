"""Claims about the service as a process: bad input, load, clients that are slow or gone, its end."""

from __future__ import annotations

import base64
import json
import socket
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from tests.system import RAW, System, system

__all__ = ["system"]  # the fixture

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True),  # BatchNorm, as lite
]


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
