"""Claims about the HTTP interface, over a real predictor and a real ASGI stack."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient

from adaptsvc.config import Settings
from tests.adaptsvc.serving.bench import RAW, Stand

IHDR = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
HUGE_PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d" + IHDR + zlib.crc32(IHDR).to_bytes(4, "big")


@pytest.fixture
def client(prepared: Settings) -> Iterator[TestClient]:
    with Stand(prepared).client() as client:
        yield client


def test_a_raw_image_is_answered_with_label_confidence_top_ood_and_version(
    client: TestClient, png: Callable[[int], bytes]
) -> None:
    data = png(0)
    body = client.post("/v1/classify", params={"top_k": 2}, content=data, headers=RAW).json()
    assert body["model_version"] == 0
    (result,) = body["results"]
    assert result["image_id"] == hashlib.sha256(data).hexdigest()
    assert result["label"] == result["top"][0]["label"]
    assert (
        result["confidence"] == result["top"][0]["probability"] >= result["top"][1]["probability"]
    )
    assert len(result["top"]) == 2
    assert result["is_ood"] is None


def test_probabilities_over_all_classes_sum_to_one(
    client: TestClient, png: Callable[[int], bytes]
) -> None:
    body = client.post("/v1/classify", content=png(0), headers=RAW).json()
    total = sum(entry["probability"] for entry in body["results"][0]["top"])
    assert total == pytest.approx(1.0)


def test_a_form_of_images_is_answered_in_order(
    client: TestClient, png: Callable[[int], bytes]
) -> None:
    pictures = [png(seed) for seed in range(3)]
    files = [("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(pictures)]
    body = client.post("/v1/classify", files=files).json()
    digests = [hashlib.sha256(data).hexdigest() for data in pictures]
    assert [result["image_id"] for result in body["results"]] == digests
    alone = client.post("/v1/classify", content=pictures[1], headers=RAW).json()["results"][0]
    assert body["results"][1]["confidence"] == pytest.approx(alone["confidence"], abs=1e-5)


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"", 400, "0 bytes"),
        (b"this is no picture", 400, "not a format we read"),
        (HUGE_PNG_HEADER, 413, "50000"),
        (b"x" * 20_001, 413, "20001 bytes"),
    ],
    ids=["empty", "text", "huge PNG header", "too many bytes"],
)
def test_bytes_that_are_no_acceptable_image_are_refused_naming_the_body(
    client: TestClient, data: bytes, status: int, says: str
) -> None:
    response = client.post("/v1/classify", content=data, headers=RAW)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["field"] == "body"
    assert says in error["message"]


def test_a_bad_image_in_a_form_fails_alone_and_is_named_by_its_place(
    client: TestClient, png: Callable[[int], bytes]
) -> None:
    contents = [png(0), b"no", png(1)]
    files = [("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(contents)]
    response = client.post("/v1/classify", files=files)
    assert response.status_code == 200
    first, bad, last = response.json()["results"]
    assert [r["image_id"] for r in (first, bad, last)] == [
        hashlib.sha256(data).hexdigest() for data in contents
    ]
    assert bad["error"]["field"] == "images[1]"
    assert "label" not in bad
    alone = client.post("/v1/classify", content=contents[2], headers=RAW).json()["results"][0]
    assert last["confidence"] == pytest.approx(alone["confidence"], abs=1e-5)


def test_a_form_of_bad_images_only_is_the_error_of_the_first(client: TestClient) -> None:
    files = [("images", (f"{i}.png", b"no", "image/png")) for i in range(2)]
    response = client.post("/v1/classify", files=files)
    assert response.status_code == 400
    assert response.json()["error"]["field"] == "images[0]"


@pytest.mark.parametrize("value", ["0", "-1", "many", "1001"])
def test_a_wrong_top_k_is_a_422_naming_it(client: TestClient, value: str) -> None:
    response = client.post("/v1/classify", params={"top_k": value}, content=b"x", headers=RAW)
    assert response.status_code == 422
    assert response.json()["error"]["field"] == "top_k"
    assert value in response.json()["error"]["message"]


def test_a_url_in_json_is_refused_and_never_fetched(client: TestClient) -> None:
    response = client.post("/v1/classify", json={"url": "http://127.0.0.1/secret"})
    assert (response.status_code, response.json()["error"]["field"]) == (422, "images")


def test_text_is_a_415_naming_the_content_type(client: TestClient) -> None:
    headers = {"content-type": "text/plain"}
    response = client.post("/v1/classify", content=b"http://127.0.0.1/secret", headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["field"] == "content-type"


def test_a_url_in_a_form_is_refused_and_never_fetched(client: TestClient) -> None:
    response = client.post(
        "/v1/classify",
        files=[("images", (None, "http://127.0.0.1:1/x.png"))],
    )
    assert response.status_code == 422
    assert response.json()["error"]["field"] == "images"


def test_a_form_with_another_field_name_is_a_422_naming_it(
    client: TestClient, png: Callable[[int], bytes]
) -> None:
    response = client.post("/v1/classify", files=[("photo", ("a.png", png(0), "image/png"))])
    assert response.status_code == 422
    assert response.json()["error"]["field"] == "photo"


def test_too_many_images_are_refused(client: TestClient, png: Callable[[int], bytes]) -> None:
    files = [("images", (f"{i}.png", png(i), "image/png")) for i in range(5)]
    response = client.post("/v1/classify", files=files)
    assert response.status_code == 422
    assert "at most 4" in response.json()["error"]["message"]


def test_a_form_without_a_boundary_is_a_400(client: TestClient) -> None:
    headers = {"content-type": "multipart/form-data"}
    response = client.post("/v1/classify", content=b"--x", headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["field"] == "body"


def test_a_form_in_an_unreadable_charset_is_a_400(client: TestClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x; charset=undefined"}
    body = (
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nb\r\n--x--\r\n'
    )
    response = client.post("/v1/classify", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["field"]) == (400, "body")


@pytest.mark.parametrize(
    "content_type", [b"image/png", b"multipart/form-data; boundary=x", b"application/json"]
)
def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure_of_ours(
    client: TestClient, content_type: bytes
) -> None:
    left: list[dict[str, Any]] = [{"type": "http.disconnect"}]
    left.append({"type": "http.request", "body": b"--x", "more_body": True})
    sent: list[Any] = []

    async def receive() -> Any:
        return left.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/classify", "query_string": b""}
    scope |= {"headers": [(b"content-type", content_type)], "http_version": "1.1"}
    anyio.run(client.app, scope, receive, send)
    assert sent[0]["status"] == 499


def test_a_body_larger_than_it_declared_is_cut_off(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    response = client.post("/v1/classify", content=pieces(), headers=RAW)
    assert response.status_code == 413


def test_an_unknown_route_and_a_wrong_method_say_so(client: TestClient) -> None:
    assert client.get("/v1/nothing").status_code == 404
    assert client.get("/v1/nothing").json()["error"]["field"] == "path"
    assert client.get("/v1/classify").status_code == 405


def test_before_the_first_version_answers_are_503_with_retry_after(
    prepared: Settings, png: Callable[[int], bytes]
) -> None:
    with Stand(prepared).client(poll=False) as client:
        response = client.post("/v1/classify", content=png(0), headers=RAW)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"


def test_the_model_says_what_serves(client: TestClient) -> None:
    body = client.get("/v1/model").json()
    assert (body["model_version"], body["method"]) == (0, "zero-shot")
    assert body["classes"] == ["cat", "dog", "car"]
    assert body["calibration"] == {"temperature": 1.0, "fitted_on": "default", "reliability": []}
    assert body["refused"] is None


def test_the_openapi_document_describes_both_body_forms(client: TestClient) -> None:
    document = client.get("/v1/openapi.json").json()
    content = document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert {"image/*", "multipart/form-data"} <= set(content)


def test_home_leads_to_the_openapi_document(client: TestClient) -> None:
    assert client.get("/").json()["openapi"].startswith("3.")


def test_nothing_is_written_to_the_store_by_answering(
    client: TestClient, prepared: Settings, png: Callable[[int], bytes]
) -> None:
    def listing() -> list[Path]:
        return sorted(prepared.store.rglob("*"))

    before = listing()
    client.post("/v1/classify", content=png(0), headers=RAW)
    assert listing() == before
