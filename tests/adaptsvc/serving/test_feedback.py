"""Claims about POST /v1/feedback: what is acknowledged is in the stream, and what is not says what to do."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adaptsvc.config import Settings
from adaptsvc.serving.app import Computing
from adaptsvc.serving.feedback import LabelDesk, add_feedback
from streams.database import DatabaseSettings
from streams.errors import LogUnavailableError
from streams.log import Log
from streams.message import Message, NewMessage
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.adaptsvc.serving.bench import Stand

pytestmark = pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)
CAT = {"image_id": "a", "label": "cat"}


class Bench:
    """A service on a prepared store, and the stream it writes to."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.topics = settings, load_topics()
        self.database = DatabaseSettings(busy_timeout_s=0.05)

    def open_log(self) -> Log:
        return SqliteLog(self.settings.stream_file, self.topics, settings=self.database)

    def client(
        self, open_log: Callable[[], Log] | None = None, *, ready: bool = True, waiting: int = 8
    ) -> TestClient:
        stand = Stand(self.settings)
        if ready:
            stand.live.poll()
        app = stand.app()
        add_feedback(app, stand.live, LabelDesk(open_log or self.open_log), Computing(1, waiting))
        return TestClient(app)

    def stored(self) -> list[Message]:
        log = SqliteLog(self.settings.stream_file, self.topics)
        partitions = self.topics.partitions(["images.labeled"])
        found = [m for p in partitions for m in log.read(p, offset=0, limit=1000)]
        log.close()
        return found


@pytest.fixture
def bench(prepared: Settings) -> Bench:
    return Bench(prepared)


@pytest.fixture
def client(bench: Bench) -> Iterator[TestClient]:
    with bench.client() as client:
        yield client


def problem(response: Any) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["field"], error["message"]


def test_a_label_is_in_the_stream_when_it_is_acknowledged(bench: Bench, client: TestClient) -> None:
    response = client.post("/v1/feedback", json=CAT)
    assert (response.status_code, response.json()) == (202, CAT)
    (message,) = bench.stored()
    assert (message.key, message.value) == ("a", b"")
    assert message.headers == {"label": b"cat", "source": b"feedback"}


def test_an_unknown_class_is_a_422_that_names_the_allowed_ones(
    bench: Bench, client: TestClient
) -> None:
    status, field, message = problem(
        client.post("/v1/feedback", json={"image_id": "a", "label": "giraffe" * 1000})
    )
    assert (status, field) == (422, "label")
    assert message.endswith("expected one of cat, dog, car")
    assert len(message) < 200
    assert not bench.settings.stream_file.exists()


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"image_id": "a"}, 422, "label"),
        ({**CAT, "image_id": ""}, 422, "image_id"),
        ({**CAT, "image_id": 7}, 422, "image_id"),
        ({**CAT, "image_id": "x" * 1025}, 422, "image_id"),
        ({**CAT, "weight": 2}, 422, "weight"),
        ([CAT], 422, "body"),
        ({**CAT, "image_id": "x" * 20_000}, 413, "body"),
    ],
    ids=["no label", "empty", "number", "long", "unknown key", "list", "huge"],
)
def test_a_body_that_is_no_feedback_is_refused_naming_what_is_wrong(
    client: TestClient, body: Any, status: int, field: str
) -> None:
    assert problem(client.post("/v1/feedback", json=body))[:2] == (status, field)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"{", 400),
        (b'{"image_id": "\\ud800", "label": "cat"}', 400),
        (b"\xff\xfe", 400),
        (b"", 400),
    ],
)
def test_bytes_that_are_no_json_are_a_400(client: TestClient, data: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    assert client.post("/v1/feedback", content=data, headers=headers).status_code == status


def test_another_content_type_is_a_415(client: TestClient) -> None:
    assert problem(client.post("/v1/feedback", data=CAT))[:2] == (415, "content-type")


def test_a_busy_stream_is_a_503_and_nothing_is_stored_until_it_is_sent_again(
    bench: Bench, client: TestClient
) -> None:
    client.post("/v1/feedback", json=CAT)
    writer = sqlite3.connect(bench.settings.stream_file)
    writer.execute("BEGIN IMMEDIATE")
    response = client.post("/v1/feedback", json={**CAT, "image_id": "b"})
    writer.rollback()
    writer.close()
    status, field, message = problem(response)
    assert (status, field, response.headers["retry-after"]) == (503, "stream", "1")
    assert "send it again shortly" in message
    assert [m.key for m in bench.stored()] == ["a"]
    assert client.post("/v1/feedback", json={**CAT, "image_id": "b"}).status_code == 202
    assert sorted(m.key for m in bench.stored()) == ["a", "b"]


def test_a_full_stream_is_a_503_that_says_what_to_do_and_never_an_acknowledgement(
    bench: Bench,
) -> None:
    bench.database = DatabaseSettings(max_file_bytes=160_000)
    with bench.client() as client:
        answers = [
            client.post("/v1/feedback", json={"image_id": f"{k}" * 300, "label": "cat"})
            for k in range(100, 400)
        ]
    acknowledged = [a.json()["image_id"] for a in answers if a.status_code == 202]
    refused = [a for a in answers if a.status_code != 202]
    assert acknowledged
    assert refused
    assert {problem(answer)[:2] for answer in refused} == {(503, "stream")}
    assert "free disk space" in problem(refused[0])[2]
    assert sorted(m.key for m in bench.stored()) == sorted(acknowledged)


def test_a_stream_that_fails_is_a_503_and_is_opened_anew_for_the_next_label(
    bench: Bench,
) -> None:
    opened: list[Log] = []

    def open_log() -> Log:
        opened.append(bench.open_log())
        if len(opened) == 1:
            opened[0].append = failing  # type: ignore[method-assign,assignment]
        return opened[-1]

    def failing(_topic: str, _messages: object) -> Any:
        raise LogUnavailableError(Path("stream.sqlite"), "disk I/O error")

    with bench.client(open_log) as client:
        status, field, message = problem(client.post("/v1/feedback", json=CAT))
        assert (status, field) == (503, "stream")
        assert "said twice it counts once" in message
        assert str(bench.settings.home) not in message
        assert client.post("/v1/feedback", json=CAT).status_code == 202
    assert len(opened) == 2


def test_a_home_that_cannot_be_written_is_a_503(bench: Bench) -> None:
    def open_log() -> Log:
        raise PermissionError(13, "Permission denied")

    with bench.client(open_log) as client:
        assert problem(client.post("/v1/feedback", json=CAT))[:2] == (503, "stream")


def test_before_the_first_version_there_are_no_classes_to_check_by(bench: Bench) -> None:
    with bench.client(ready=False) as client:
        assert problem(client.post("/v1/feedback", json=CAT))[:2] == (503, "model")


def test_too_many_labels_at_once_are_a_429(bench: Bench) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow() -> Log:
        entered.set()
        release.wait(10)
        return bench.open_log()

    with bench.client(slow, waiting=0) as client:
        first = threading.Thread(target=lambda: client.post("/v1/feedback", json=CAT))
        first.start()
        entered.wait(10)
        response = client.post("/v1/feedback", json=CAT)
        release.set()
        first.join()
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


def test_labels_of_several_service_processes_are_all_stored(bench: Bench) -> None:
    """Each has an application and a connection of its own, as each process has."""
    bench.database = DatabaseSettings(busy_timeout_s=30.0)

    def send(process: int, client: TestClient) -> list[int]:
        bodies = [{"image_id": f"{process}-{number}", "label": "dog"} for number in range(20)]
        return [client.post("/v1/feedback", json=body).status_code for body in bodies]

    with ExitStack() as stack:
        clients = [stack.enter_context(bench.client()) for _ in range(3)]
        with ThreadPoolExecutor(len(clients)) as pool:
            statuses = list(pool.map(send, range(len(clients)), clients))
    assert statuses == [[202] * 20] * 3
    assert len({m.key for m in bench.stored()}) == 60


def test_the_openapi_document_describes_the_body(client: TestClient) -> None:
    route = client.get("/v1/openapi.json").json()["paths"]["/v1/feedback"]["post"]
    schema = route["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["required"]) == {"image_id", "label"}
    assert {"202", "422", "503"} <= set(route["responses"])


def test_a_closed_desk_opens_the_stream_again(bench: Bench) -> None:
    desk = LabelDesk(bench.open_log)
    desk.close()
    desk._append(NewMessage("a", b"", {"label": b"cat"}))
    desk.close()
    desk._append(NewMessage("b", b"", {"label": b"cat"}))
    desk.close()
    assert len(bench.stored()) == 2
