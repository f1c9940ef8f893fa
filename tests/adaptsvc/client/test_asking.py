"""Claims about the client, against the real application; the service's failures are acted by a transport."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from adaptsvc.client import AsyncClient, Client, Image, Options
from adaptsvc.config import Settings
from adaptsvc.errors import ServiceError
from tests.adaptsvc.serving.bench import Stand

tiny = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
Png = Callable[[int], bytes]
URL = "http://test"
SOON = Options(retries=2)


def answering(
    *answers: httpx.Response | Exception,
) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A service that answers so, one after the other."""
    asked: list[httpx.Request] = []
    left = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.MockTransport(handle), asked


def busy() -> httpx.Response:
    return httpx.Response(429, headers={"retry-after": "0"}, json={"error": {"field": "queue"}})


def model() -> httpx.Response:
    body = {"model_version": 3, "model": "lite", "method": "ueo", "classes": ["cat", "dog"]}
    return httpx.Response(200, json=body)


@tiny
def test_both_clients_read_what_the_service_says(
    prepared: Settings, png: Png, tmp_path: Path
) -> None:
    (file := tmp_path / "a.png").write_bytes(png(1))
    stand = Stand(prepared)

    async def ask() -> None:
        transport = httpx.ASGITransport(app=stand.app())
        async with AsyncClient(URL, transport=transport) as client:
            assert (await client.model()).classes == ("cat", "dog", "car")
            one = await client.classify(Image(png(0), "mine"), top_k=2)
            assert (one.version, one.results[0].image_id) == (0, "mine")
            assert len(one.results[0].top) == 2
            several = await client.classify(png(0), file, b"no image")
            assert [result.error == "" for result in several.results] == [True, True, False]
            assert several.results[1].image_id == hashlib.sha256(png(1)).hexdigest()
            assert several.results[0].confidence == pytest.approx(
                one.results[0].confidence, abs=1e-5
            )
            given = await client.embed(Image(png(0), "a"), Image(png(1), "b"))
            assert [result.image_id for result in given.results] == ["a", "b"]
            assert sum(x * x for x in given.results[0].embedding) == pytest.approx(1, abs=1e-4)
            with pytest.raises(ServiceError, match="not a format we read") as caught:
                await client.classify(b"no image")
            assert (caught.value.status, caught.value.field) == (400, "body")

    stand.live.poll()
    stand.engine.start()
    asyncio.run(ask())
    stand.engine.close(1)


def test_busy_services_and_broken_connections_are_tried_again() -> None:
    transport, asked = answering(busy(), httpx.ConnectError("refused"), model())
    with Client(URL, SOON, transport=transport) as client:
        assert client.model().version == 3
    assert len(asked) == 3
    assert asked[0].headers["x-request-timeout"] == "30"


def test_an_id_that_no_header_can_hold_goes_in_a_form() -> None:
    classified = httpx.Response(200, json={"model_version": 1, "results": []})
    transport, asked = answering(classified)
    with Client(URL, SOON, transport=transport) as client:
        client.classify(Image(b"image", "żaba"))
    assert "żaba".encode() in asked[0].read()


def test_after_the_last_try_the_answer_is_an_error_that_says_what_came() -> None:
    transport, asked = answering(busy(), busy(), busy())
    with Client(URL, SOON, transport=transport) as client, pytest.raises(ServiceError) as caught:
        client.model()
    assert (caught.value.status, caught.value.field, len(asked)) == (429, "queue", 3)
    transport, asked = answering(*[httpx.ConnectError("refused")] * 3)
    with (
        Client(URL, SOON, transport=transport) as client,
        pytest.raises(ServiceError, match="no answer"),
    ):
        client.model()
    assert len(asked) == 3


def test_what_is_the_requests_own_fault_is_not_tried_again() -> None:
    wrong = httpx.Response(422, json={"error": {"field": "label", "message": "got 'fish'"}})
    transport, asked = answering(wrong)
    with (
        Client(URL, SOON, transport=transport) as client,
        pytest.raises(ServiceError, match="got 'fish'"),
    ):
        client.feedback("a", "fish")
    assert len(asked) == 1


def test_the_async_client_tries_again_too() -> None:
    async def ask() -> int:
        transport, asked = answering(httpx.ReadError("reset"), busy(), model())
        async with AsyncClient(URL, SOON, transport=transport) as client:
            assert (await client.model()).version == 3
        return len(asked)

    assert asyncio.run(ask()) == 3


def test_an_answer_that_is_no_json_is_an_error() -> None:
    transport, _ = answering(httpx.Response(200, text="<html>"))
    with (
        Client(URL, SOON, transport=transport) as client,
        pytest.raises(ServiceError, match="no JSON"),
    ):
        client.model()


def test_the_client_loads_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, adaptsvc.client; print({'torch', 'numpy', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
