"""Claims about the forms of input and output: ids, JSON, embeddings, and tensors."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from adaptsvc.config import Settings
from adaptsvc.images import decode
from tests.adaptsvc.serving.bench import LIMITS, RAW, Broken, Stand

pytestmark = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
Png = Callable[[int], bytes]
INFER = "/v2/models/adaptsvc/infer"


@pytest.fixture
def stand(prepared: Settings) -> Stand:
    return Stand(prepared)


@pytest.fixture
def client(stand: Stand) -> Iterator[TestClient]:
    with stand.client() as client:
        yield client


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def encoded(*images: bytes) -> dict[str, Any]:
    data = [b64(image) for image in images]
    tensor = {"name": "images", "datatype": "BYTES", "shape": [len(data)], "data": data}
    return {"inputs": [tensor]}


def test_json_a_form_and_a_raw_body_of_one_image_get_one_answer(
    client: TestClient, png: Png
) -> None:
    data = png(0)
    answers = [
        client.post("/v1/classify", content=data, headers=RAW),
        client.post("/v1/classify", files=[("images", ("a", data))]),
        client.post("/v1/classify", json={"images": [{"data": b64(data)}]}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].json() == answers[1].json() == answers[2].json()


def test_an_id_that_is_given_is_the_id_of_the_answer(client: TestClient, png: Png) -> None:
    raw = client.post("/v1/classify", content=png(0), headers={**RAW, "X-Image-Id": "mine"})
    files = [("images", (str(n), png(n))) for n in range(2)]
    form = client.post("/v1/classify", files=files, data={"image_id": ["a", "b"]})
    images = [{"data": b64(png(0)), "image_id": "katt-ö"}, {"data": b64(png(1))}]
    said = client.post("/v1/classify", json={"images": images})
    assert [result["image_id"] for result in raw.json()["results"]] == ["mine"]
    assert [result["image_id"] for result in form.json()["results"]] == ["a", "b"]
    digest = hashlib.sha256(png(1)).hexdigest()
    assert [result["image_id"] for result in said.json()["results"]] == ["katt-ö", digest]


def test_ids_that_cannot_be_kept_or_counted_are_refused(client: TestClient, png: Png) -> None:
    files = [("images", (str(n), png(n))) for n in range(2)]
    for response in [
        client.post("/v1/classify", files=files, data={"image_id": ["a"]}),
        client.post("/v1/classify", files=files, data={"image_id": ["a", "b\nc"]}),
        client.post("/v1/classify", files=files, data={"image_id": ["a", "x" * 1025]}),
    ]:
        assert (response.status_code, response.json()["error"]["field"]) == (422, "image_id")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"images": []}, 422, "images"),
        ({"images": [{"data": "no base64!"}]}, 422, "images[0]"),
        ({"images": [{"data": "AAAA"}] * 5}, 422, "images"),
        ({"images": [{"url": "http://127.0.0.1"}]}, 422, "data"),
        ({"images": [{"data": "AAAA"}]}, 400, "images[0]"),
        ({}, 422, "images"),
    ],
)
def test_json_that_holds_no_images_is_refused_naming_what(
    client: TestClient, body: object, status: int, field: str
) -> None:
    response = client.post("/v1/classify", json=body)
    assert (response.status_code, response.json()["error"]["field"]) == (status, field)


def test_a_bad_image_in_json_fails_alone(client: TestClient, png: Png) -> None:
    images = [{"data": b64(png(0))}, {"data": b64(b"no")}, {"data": b64(png(1))}]
    for path in ("/v1/classify", "/v1/embed"):
        results = client.post(path, json={"images": images}).json()["results"]
        assert ["error" in result for result in results] == [False, True, False]
        assert results[1]["error"]["field"] == "images[1]"


def test_embeddings_have_length_one_and_are_those_of_the_model(
    client: TestClient, stand: Stand, png: Png
) -> None:
    body = client.post("/v1/embed", files=[("images", (str(n), png(n))) for n in range(2)]).json()
    assert body["model_version"] == 0
    found = np.array([result["embedding"] for result in body["results"]])
    assert stand.live.current is not None
    preprocess = stand.live.current.base.preprocess
    pixels = np.stack([decode(png(n), preprocess, LIMITS) for n in range(2)])
    np.testing.assert_allclose(found, stand.live.current.encoder.embed(pixels), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_tensors_say_what_json_says(client: TestClient, png: Png) -> None:
    asked = {**encoded(png(0), png(1)), "id": "7"}
    answer = client.post(INFER, json=asked).json()
    files = [("images", (str(n), png(n))) for n in range(2)]
    plain = client.post("/v1/classify", files=files).json()["results"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("adaptsvc", "0", "7")
    found = {output["name"]: output for output in answer["outputs"]}
    assert found["label"]["data"] == [result["label"] for result in plain]
    assert found["ood_score"]["data"] == pytest.approx([r["ood_score"] for r in plain], rel=1e-4)
    shape = tuple(found["probabilities"]["shape"])
    best = np.array(found["probabilities"]["data"]).reshape(shape).max(axis=1)
    assert best.tolist() == pytest.approx([result["confidence"] for result in plain], rel=1e-4)


def test_outputs_are_as_the_metadata_says(client: TestClient, png: Png) -> None:
    described = client.get("/v2/models/adaptsvc").json()
    outputs = client.post(INFER, json=encoded(png(0))).json()["outputs"]
    assert described["versions"] == ["0"]
    for expected, found in zip(described["outputs"], outputs, strict=True):
        assert (expected["name"], expected["datatype"]) == (found["name"], found["datatype"])
        assert expected["shape"][1:] == found["shape"][1:]
        assert len(found["data"]) == np.prod(found["shape"])


def test_pixels_give_what_their_encoded_image_gives_and_only_what_is_asked_for(
    client: TestClient, stand: Stand, png: Png
) -> None:
    assert stand.live.current is not None
    pixels = decode(png(0), stand.live.current.base.preprocess, LIMITS)[None]
    shape, data = list(pixels.shape), pixels.tolist()
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": shape, "data": data}
    asked = {"inputs": [tensor], "outputs": [{"name": "ood_score"}]}
    (found,) = client.post(INFER, json=asked).json()["outputs"]
    expected = client.post("/v1/classify", content=png(0), headers=RAW).json()["results"][0]
    assert found["name"] == "ood_score"
    assert found["data"] == pytest.approx([expected["ood_score"]], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"shape": [2]}, 422),
        ({"shape": [0]}, 422),
        ({"datatype": "FP32"}, 422),
        ({"name": "other"}, 422),
        ({"data": ["no base64!"]}, 422),
        ({"data": [7]}, 422),
        ({"data": ["AAAA"]}, 400),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [7]}, 400),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [256]}, 422),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [True]}, 422),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 1], "data": [7.0]}, 422),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_one_string(
    client: TestClient, png: Png, change: dict[str, Any], status: int
) -> None:
    asked = encoded(png(0))
    asked["inputs"][0].update(change)
    response = client.post(INFER, json=asked)
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)


def test_tensors_nested_deeper_than_any_shape_are_refused(client: TestClient) -> None:
    data: list[Any] = [0] * (3 * 32 * 32)
    for _ in range(100):  # each level was walked through for each number
        data = [data]
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 3, 32, 32], "data": data}
    assert client.post(INFER, json={"inputs": [tensor]}).status_code == 422


def test_json_of_very_many_members_is_refused_unread(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptsvc.serving.requests.MOST_MEMBERS", 10)
    body = {"images": [{"data": "AAAA"}], **{f"more{n}": 0 for n in range(10)}}
    response = client.post("/v1/classify", json=body)
    assert response.status_code == 422
    assert "at most 10" in response.json()["error"]["message"]


def test_the_tensor_probes_tell_the_truth(client: TestClient, stand: Stand) -> None:
    paths = ["/v2/health/live", "/v2/health/ready", "/v2/models/adaptsvc/ready"]
    assert [client.get(path).status_code for path in paths] == [200] * 3
    stand.problem = "a canary inference failed"
    assert [client.get(path).status_code for path in paths] == [503] * 3
    assert client.get("/v2").json()["name"] == "adaptsvc"
    assert client.get("/v2/models/other").status_code == 404


def test_inference_that_fails_is_a_503_that_says_so(
    client: TestClient, stand: Stand, png: Png
) -> None:
    stand.use(Broken())
    response = client.post("/v1/classify", content=png(0), headers=RAW)
    assert (response.status_code, response.json()["error"]["field"]) == (503, "model")
    assert "out of memory" in response.json()["error"]["message"]
    assert response.headers["retry-after"] == "1"
