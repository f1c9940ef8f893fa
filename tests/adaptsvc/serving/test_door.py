"""Claims about the door: who comes in, what answers carry, and that nothing goes round it."""

from __future__ import annotations

from collections import Counter

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from adaptsvc.errors import ConfigError
from adaptsvc.metrics import Denial, Observer
from adaptsvc.serving.door import (
    CALLER,
    HEADERS,
    Door,
    DoorMiddleware,
    check_exposure,
    is_loopback,
)
from adaptsvc.serving.keys import Keys, new_key

DATA, DATA_HASH = new_key("phone", "data")
ADMIN, ADMIN_HASH = new_key("ops", "admin")
HERE = "http://127.0.0.1:3000"


class Recorder(Observer):
    def __init__(self) -> None:
        self.denials: Counter[Denial] = Counter()

    def denied(self, why: Denial) -> None:
        self.denials[why] += 1


def behind(door: Door, url: str = HERE) -> TestClient:
    """An application that says which role came in, on every path, behind the door."""
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT"])
    def anything(request: Request) -> dict[str, str | None]:
        caller = request.scope[CALLER]
        return {"role": None if caller is None else caller.role}

    return TestClient(DoorMiddleware(app, door), base_url=url)


def opened(*hashes: object, metrics_open: bool = False, observer: Observer | None = None) -> Door:
    door = Door()
    known = [each for each in (DATA_HASH, ADMIN_HASH) if each in hashes]
    door.open(
        Keys(known), metrics_open=metrics_open, most_bytes=1000, observer=observer or Observer()
    )
    return door


@pytest.fixture
def client() -> TestClient:
    return behind(opened(DATA_HASH, ADMIN_HASH))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {DATA}"},
        {"authorization": f"bearer  {DATA} "},
        {"x-api-key": DATA},
        {"x-api-key": DATA, "authorization": f"Bearer {DATA}"},
        {"x-api-key": DATA, "authorization": "Basic cHJveHk6cHJveHk="},
    ],
)
def test_a_key_is_taken_from_either_header(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/model", headers=headers).json() == {"role": "data"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "wrong"},
        {"x-api-key": DATA_HASH.sha256},
        {"authorization": DATA},
        {"authorization": f"Basic {DATA}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {DATA}", "x-api-key": ADMIN},
    ],
)
def test_without_one_right_key_the_answer_is_a_401_with_a_challenge(
    client: TestClient, headers: dict[str, str]
) -> None:
    response = client.get("/v1/model", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    error = response.json()["error"]
    assert error["field"] == "authorization"
    assert DATA not in error["message"]


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/metrics", "/docs.json", "/schema.json", "/static_content/x", "/v1/classify"),
        *(
            "/livez/",
            "/livez/..",
            "//livez",
            "/LIVEZ",
            "/v1/livez",
            "/livez%00",
            "/livez;/v1/model",
        ),
    ],
)
def test_every_path_but_the_probes_needs_a_key(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 401
    assert client.post(path).status_code == 401


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_probes_need_none(client: TestClient, path: str) -> None:
    assert client.get(path).json() == {"role": None}


def test_metrics_need_a_key_unless_the_settings_say_otherwise() -> None:
    assert behind(opened(DATA_HASH)).get("/metrics").status_code == 401
    assert behind(opened(DATA_HASH, metrics_open=True)).get("/metrics").status_code == 200
    assert behind(opened(DATA_HASH, metrics_open=True)).get("/v1/model").status_code == 401


def test_until_it_is_opened_only_probes_pass() -> None:
    client = behind(Door())
    response = client.get("/v1/model", headers={"x-api-key": DATA})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("url", [HERE, "http://localhost:3000"])
def test_without_keys_this_machine_may_do_everything(url: str) -> None:
    client = behind(opened(), "http://127.0.0.1:3000")
    assert client.get("/v1/model", headers={"host": url[7:]}).json() == {"role": "admin"}


def test_without_keys_a_connection_from_outside_is_refused_however_the_service_was_started() -> (
    None
):
    response = behind(opened(), "http://192.0.2.7:3000").get(
        "/v1/model", headers={"host": "localhost"}
    )
    assert response.status_code == 403
    assert "serve.keys" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:3000"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "[::1"},
    ],
)
def test_without_keys_a_web_page_of_somebody_else_is_refused(headers: dict[str, str]) -> None:
    response = behind(opened()).post("/v1/versions/0/activate", headers=headers)
    assert (response.status_code, response.json()["error"]["field"]) == (403, "host")


def test_without_keys_a_page_of_this_machine_is_answered() -> None:
    headers = {"origin": "http://localhost:3000"}
    assert behind(opened()).post("/v1/classify", headers=headers).status_code == 200


def test_a_body_larger_than_any_route_takes_is_refused_unread_on_every_path(
    client: TestClient,
) -> None:
    headers = {"x-api-key": DATA, "content-length": "1001"}
    for path in ("/", "/metrics", "/schema.json", "/v1/nothing"):
        response = client.post(path, headers=headers, content=b"x")
        assert (response.status_code, response.headers["connection"]) == (413, "close")


@pytest.mark.parametrize("headers", [{}, {"x-api-key": DATA}])
def test_every_answer_carries_the_security_headers(
    client: TestClient, headers: dict[str, str]
) -> None:
    response = client.get("/v1/model", headers=headers)
    for name, value in HEADERS:
        assert response.headers[name.decode()] == value.decode()
    assert "server" not in response.headers


def test_a_route_may_have_its_own_policy() -> None:
    app = FastAPI()

    @app.get("/ui")
    def page() -> HTMLResponse:
        return HTMLResponse("", headers={"content-security-policy": "default-src 'self'"})

    response = TestClient(DoorMiddleware(app, opened()), base_url=HERE).get("/ui")
    assert response.headers.get_list("content-security-policy") == ["default-src 'self'"]


def test_web_sockets_are_closed() -> None:
    with (
        pytest.raises(WebSocketDisconnect) as raised,
        behind(opened(DATA_HASH)).websocket_connect("/v1/model"),
    ):
        pass
    assert raised.value.code == 1008


def test_those_turned_away_are_counted_by_why() -> None:
    seen = Recorder()
    client = behind(opened(DATA_HASH, observer=seen))
    for headers in ({}, {"x-api-key": "wrong"}, {"x-api-key": "worse"}):
        client.get("/v1/model", headers=headers)
    client.get("/livez")
    client.get("/v1/model", headers={"x-api-key": DATA})
    assert seen.denials == {"no_key": 1, "bad_key": 2}


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_addresses_are_told_from_others(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_a_service_for_others_without_keys_is_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"'0\.0\.0\.0'.*adaptsvc keys new.*serve\.keys"):
        check_exposure("0.0.0.0", Keys([]))
    check_exposure("0.0.0.0", Keys([DATA_HASH]))
    check_exposure("127.0.0.1", Keys([]))
