"""Claims about overload: queues, deadlines, clients that go away, and bodies that do not come."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from adaptsvc.config import Settings
from adaptsvc.serving.gate import GateLimits
from adaptsvc.serving.waiting import TIMEOUT_HEADER
from tests.adaptsvc.serving.bench import ENGINE, PATIENCE_S, RAW, Held, Stand, session_of

pytestmark = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
Png = Callable[[int], bytes]


@contextmanager
def held(stand: Stand) -> Iterator[Held]:
    """The engine started, its next inference call held until it is released."""
    stand.live.poll()
    session = Held(session_of(stand))
    stand.use(session)
    stand.engine.start()
    try:
        yield session
    finally:
        session.release.set()
        stand.engine.close(timeout_s=PATIENCE_S)


def client_of(stand: Stand) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=stand.app())
    return httpx.AsyncClient(transport=transport, base_url="http://test", timeout=PATIENCE_S)


async def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_a_full_queue_is_a_429_that_says_when_to_come_back(prepared: Settings, png: Png) -> None:
    stand = Stand(prepared, limits=replace(ENGINE, queue_images=2))

    async def scene() -> tuple[httpx.Response, list[httpx.Response]]:
        async with client_of(stand) as client:
            inside = [
                asyncio.ensure_future(client.post("/v1/classify", content=png(n), headers=RAW))
                for n in range(2)
            ]
            await until(session.entered.is_set)
            refused = await client.post("/v1/classify", content=png(2), headers=RAW)
            session.release.set()
            return refused, list(await asyncio.gather(*inside))

    with held(stand) as session:
        refused, inside = asyncio.run(scene())
    assert refused.status_code == 429
    assert refused.json()["error"]["field"] == "queue"
    assert int(refused.headers["retry-after"]) >= 1
    assert [response.status_code for response in inside] == [200, 200]
    assert stand.observer.shed_for == ["queue"]


def test_a_request_not_answered_in_the_time_it_asks_for_is_a_429_and_is_not_computed(
    prepared: Settings, png: Png
) -> None:
    stand = Stand(prepared)

    async def scene() -> httpx.Response:
        async with client_of(stand) as client:
            first = asyncio.ensure_future(client.post("/v1/classify", content=png(0), headers=RAW))
            await until(session.entered.is_set)
            late = await client.post(
                "/v1/classify", content=png(1), headers={**RAW, TIMEOUT_HEADER: "0.05"}
            )
            session.release.set()
            assert (await first).status_code == 200
            await until(lambda: stand.observer.spared_images)
            return late

    with held(stand) as session:
        late = asyncio.run(scene())
    assert (late.status_code, late.json()["error"]["field"]) == (429, "deadline")
    assert "retry-after" in late.headers
    assert session.calls == 1
    assert stand.observer.shed_for == ["deadline"]


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_a_deadline_that_is_no_number_of_seconds_is_a_422(
    prepared: Settings, png: Png, value: str
) -> None:
    with Stand(prepared).client() as client:
        headers = {**RAW, TIMEOUT_HEADER: value}
        response = client.post("/v1/classify", content=png(0), headers=headers)
    assert (response.status_code, response.json()["error"]["field"]) == (422, TIMEOUT_HEADER)


def test_what_a_client_that_went_away_had_sent_is_not_computed(
    prepared: Settings, png: Png
) -> None:
    stand = Stand(prepared)
    app = stand.app()
    sent: list[dict[str, Any]] = []

    async def request(number: int, gone: asyncio.Event) -> None:
        messages = iter([{"type": "http.request", "body": png(number), "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in messages:
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"image/png")]
        await app(scope(headers), receive, send)

    async def scene() -> None:
        stays, leaves = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(request(0, stays))
        await until(session.entered.is_set)
        second = asyncio.ensure_future(request(1, leaves))
        await until(lambda: stand.engine.inside == 2)
        leaves.set()
        await second
        session.release.set()
        await first
        await until(lambda: stand.observer.spared_images == 1)

    with held(stand) as session:
        asyncio.run(scene())
    assert session.calls == 1
    assert stand.observer.shed_for == ["gone"]
    assert stand.engine.inside == 0


def test_a_body_that_does_not_come_is_a_408_that_closes_the_connection(prepared: Settings) -> None:
    stand = Stand(prepared, gate=GateLimits(256, body_s=0.05, answer_s=PATIENCE_S))

    async def scene() -> httpx.Response:
        sent: list[dict[str, Any]] = []
        started = iter([{"type": "http.request", "body": b"\x89PNG", "more_body": True}])

        async def receive() -> dict[str, Any]:
            for message in started:
                return message
            await asyncio.sleep(PATIENCE_S)
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        await stand.app()(scope([(b"content-type", b"image/png")]), receive, send)
        return httpx.Response(
            sent[0]["status"], headers=sent[0]["headers"], content=sent[1]["body"]
        )

    with held(stand):
        response = asyncio.run(scene())
    assert (response.status_code, response.json()["error"]["field"]) == (408, "body")
    assert response.headers["connection"] == "close"
    assert stand.observer.shed_for == ["slow_body"]


def test_what_takes_longer_than_anything_may_is_a_503_and_is_let_go_of(
    prepared: Settings, png: Png
) -> None:
    stand = Stand(prepared, gate=GateLimits(256, PATIENCE_S, answer_s=0.2))
    with held(stand) as session, TestClient(stand.app()) as client:
        response = client.post("/v1/classify", content=png(0), headers=RAW)
        session.release.set()
        assert client.get("/v1/model").status_code == 200
    assert (response.status_code, response.json()["error"]["field"]) == (503, "service")
    assert "0.2 s" in response.json()["error"]["message"]
    assert stand.observer.shed_for == ["deadline"]
    assert stand.engine.inside == 0


def test_more_open_requests_than_allowed_are_a_429_before_their_body_is_read(
    prepared: Settings, png: Png
) -> None:
    stand = Stand(prepared, gate=GateLimits(1, PATIENCE_S, PATIENCE_S))

    async def scene() -> httpx.Response:
        async with client_of(stand) as client:
            first = asyncio.ensure_future(client.post("/v1/classify", content=png(0), headers=RAW))
            await until(session.entered.is_set)
            refused = await client.get("/v1/model")
            session.release.set()
            assert (await first).status_code == 200
            assert (await client.get("/v1/model")).status_code == 200
            return refused

    with held(stand) as session:
        refused = asyncio.run(scene())
    assert (refused.status_code, refused.json()["error"]["field"]) == (429, "connections")
    assert refused.headers["retry-after"] == "1"


def test_a_process_that_leaves_answers_and_asks_for_the_connection_to_be_closed(
    prepared: Settings, png: Png
) -> None:
    leaving = threading.Event()
    stand = Stand(prepared, leaving=leaving.is_set)
    with stand.client() as client:
        before = client.post("/v1/classify", content=png(0), headers=RAW)
        leaving.set()
        after = client.post("/v1/classify", content=png(0), headers=RAW)
    assert "connection" not in before.headers
    assert (after.status_code, after.headers["connection"]) == (200, "close")


def scope(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/classify",
        "raw_path": b"/v1/classify",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
