"""Claims about /v1/classes: what is told, who may ask for others, and what is refused at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adaptsvc.config import Settings
from adaptsvc.metrics import Observer
from adaptsvc.serving.door import Door, DoorMiddleware
from adaptsvc.serving.keys import Keys, new_key
from adaptsvc.types import Task
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Draft
from adaptsvc.versions.tasks import FileTasks, TaskOutcome
from tests.adaptsvc.serving.bench import RAW, Stand, session_of
from tests.conftest import CLASSES

pytestmark = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
DATA, DATA_HASH = new_key("phone", "data")
ADMIN, ADMIN_HASH = new_key("ops", "admin")
OTHERS = ("dog", "lorry")
MOST_BYTES = 10**6


class Bench:
    """A service with a client for each key, and the place where requests are kept."""

    def __init__(self, settings: Settings) -> None:
        self.stand = Stand(settings)
        self.tasks = FileTasks(settings.tasks)
        self.stand.live.poll()
        self.stand.engine.start()
        door = Door()
        keys = Keys([DATA_HASH, ADMIN_HASH])
        door.open(keys, metrics_open=False, most_bytes=MOST_BYTES, observer=Observer())
        behind = DoorMiddleware(self.stand.app(door), door)
        self.data = TestClient(behind, headers={"x-api-key": DATA})
        self.admin = TestClient(behind, headers={"x-api-key": ADMIN})

    def put(self, **body: Any) -> Any:
        return self.admin.put("/v1/classes", json=body)

    def make(self, classes: tuple[str, ...]) -> int:
        """What a worker does: a version whose head has so many rows serves."""
        zero = self.stand.store.load(0)
        fields = {key: getattr(zero.manifest, key) for key in Draft.model_fields}
        rows = zero.head.class_embeddings[: len(classes)]
        head = Head(rows, zero.head.context, zero.head.self_test_embeddings)
        made = self.stand.store.publish(Draft(**{**fields, "classes": classes}), {}, head)
        self.stand.pointer.compare_and_set(0, made.id)
        return made.id


@pytest.fixture
def bench(prepared: Settings) -> Iterator[Bench]:
    bench = Bench(prepared)
    yield bench
    bench.stand.engine.close(timeout_s=1)


def test_the_answer_names_one_version_and_has_its_classes(bench: Bench) -> None:
    assert bench.data.get("/v1/classes").json() == {
        "model_version": 0,
        "classes": list(CLASSES),
        "prompt": "a photo of a {}.",
        "request": None,
    }


def test_a_request_is_accepted_and_waits_for_a_worker(bench: Bench) -> None:
    answer = bench.put(classes=OTHERS, prompt="a sketch of a {}.")
    assert (answer.status_code, answer.headers["location"]) == (202, "/v1/classes")
    body = answer.json()
    assert (body["model_version"], body["classes"]) == (0, list(CLASSES)), "what answers now"
    asked = body["request"]
    assert (asked["id"], asked["stage"], asked["version"]) == (1, "waiting", None)
    assert (asked["classes"], asked["prompt"]) == (list(OTHERS), "a sketch of a {}.")
    assert bench.put(classes=OTHERS, prompt="a sketch of a {}.").json() == body
    assert bench.data.get("/v1/classes").json() == body


def test_without_a_prompt_the_one_that_serves_stays(bench: Bench) -> None:
    assert bench.put(classes=OTHERS).json()["request"]["prompt"] == "a photo of a {}."


def test_a_version_with_a_head_of_another_shape_is_swapped_into_the_running_session(
    bench: Bench, png: Callable[[int], bytes]
) -> None:
    bench.put(classes=OTHERS)
    session = session_of(bench.stand)
    made = bench.make(OTHERS)
    bench.tasks.answer(TaskOutcome(request=1, version=made))
    behind = bench.data.get("/v1/classes").json()
    assert (behind["model_version"], behind["classes"]) == (0, list(CLASSES))
    assert (behind["request"]["stage"], behind["request"]["version"]) == ("done", made)
    bench.stand.live.poll()
    assert session_of(bench.stand) is session
    body = bench.data.get("/v1/classes").json()
    assert (body["model_version"], body["classes"]) == (made, list(OTHERS))
    found = bench.data.post("/v1/classify", content=png(0), headers=RAW).json()
    assert found["model_version"] == made
    assert {each["label"] for each in found["results"][0]["top"]} == set(OTHERS)


def test_asking_for_what_serves_is_200_and_no_request(bench: Bench) -> None:
    answer = bench.put(classes=CLASSES)
    assert (answer.status_code, answer.json()["request"]) == (200, None)


def test_a_refusal_is_told_with_its_reason(bench: Bench) -> None:
    bench.put(classes=OTHERS)
    bench.tasks.answer(TaskOutcome(request=1, reason="too many tokens"))
    asked = bench.data.get("/v1/classes").json()["request"]
    assert (asked["stage"], asked["reason"], asked["version"]) == (
        "refused",
        "too many tokens",
        None,
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"classes": ["cat", "cat"]}, "classes"),
        ({"classes": ["cat"]}, "classes"),
        ({"classes": ["cat", ""]}, "classes"),
        ({"classes": [f"n{k}" for k in range(10_001)]}, "classes"),
        ({"classes": ["cat", "dog"], "prompt": "a photo"}, "prompt"),
        ({"classes": ["cat", "dog"], "prompt": "{} {}"}, "prompt"),
        ({"classes": ["cat", "dog"], "names": 1}, "names"),
        ({"prompt": "a photo of a {}."}, "classes"),
    ],
)
def test_classes_that_cannot_be_used_are_a_422_naming_the_field(
    bench: Bench, body: dict[str, Any], field: str
) -> None:
    answer = bench.put(**body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert bench.tasks.read().request is None


def test_a_body_that_is_no_json_or_too_large_is_refused(bench: Bench) -> None:
    json_type = {"content-type": "application/json"}
    assert bench.admin.put("/v1/classes", content=b"{", headers=json_type).status_code == 400
    assert bench.admin.put("/v1/classes", content=b"cat,dog").status_code == 415
    large = b" " * (MOST_BYTES + 1)
    assert bench.admin.put("/v1/classes", content=large, headers=json_type).status_code == 413


def test_a_data_key_asks_for_nothing(bench: Bench) -> None:
    answer = bench.data.put("/v1/classes", json={"classes": OTHERS})
    assert (answer.status_code, answer.json()["error"]["field"]) == (403, "authorization")
    assert bench.tasks.read().request is None


def test_while_a_person_holds_what_serves_asking_is_a_409(bench: Bench) -> None:
    bench.stand.pointer.force(0, hold=True)
    answer = bench.put(classes=OTHERS)
    assert answer.status_code == 409
    assert "versions activate 0" in answer.json()["error"]["message"]
    assert bench.tasks.read().request is None


def test_requests_that_cannot_be_read_do_not_hide_what_serves(
    bench: Bench, prepared: Settings
) -> None:
    prepared.tasks.write_text("{")
    assert bench.data.get("/v1/classes").json()["request"] is None


def test_the_last_of_two_requests_stands(bench: Bench) -> None:
    bench.put(classes=OTHERS)
    bench.put(classes=("ship", "frog"))
    waiting = bench.tasks.read().waiting
    assert waiting is not None
    assert (waiting.id, waiting.task) == (2, Task(("ship", "frog"), "a photo of a {}."))
