"""Claims about other classes while everything runs, with real processes: two services and a worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from adaptsvc.config import Settings
from tests.adaptsvc.test_cli import run
from tests.system import RAW, System, system

__all__ = ["system"]  # the fixture
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("tiny_directory", ["vit", "resnet"], indirect=True),
]
BEFORE, AFTER = ("cat", "dog", "car"), ("dog", "lorry", "cat", "ship")
WAIT_S = 240


class Asker:
    """Asks all the time, by a new connection each, until it is told to stop."""

    def __init__(self, url: str, image: bytes) -> None:
        self._url, self._image = url, image
        self.answers: list[tuple[int, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            with httpx.Client(timeout=60) as client:
                url, image = self._url + "/v1/classify?top_k=100", self._image
                found = client.post(url, content=image, headers=RAW)
                self.answers.append((found.status_code, found.json()))


@pytest.fixture
def two(system: System) -> System:
    """Two service processes and a worker, ready."""
    serve = system.settings.serve.model_copy(update={"workers": 2})
    system.settings = system.settings.model_copy(update={"serve": serve})
    system.start_service()
    system.start_worker()
    system.wait(system.ready, "the service is ready", WAIT_S)
    return system


def seen_of(answers: list[tuple[int, Any]]) -> dict[int, set[frozenset[str]]]:
    """The sets of labels that each version answered with."""
    seen: dict[int, set[frozenset[str]]] = {}
    for _, body in answers:
        labels = frozenset(each["label"] for each in body["results"][0]["top"])
        seen.setdefault(body["model_version"], set()).add(labels)
    return seen


def test_other_classes_answer_without_a_restart_and_no_answer_mixes_two_versions(
    two: System, png: Callable[[int], bytes]
) -> None:
    url = two.url + "/v1/classes"
    with Asker(two.url, png(0)) as asker:
        asked = httpx.put(url, json={"classes": AFTER, "prompt": "a sketch of a {}."}, timeout=60)
        assert (asked.status_code, asked.json()["request"]["id"]) == (202, 1)

        def answers_everywhere() -> bool:
            bodies = [httpx.get(url, timeout=60).json() for _ in range(8)]
            return all(tuple(body["classes"]) == AFTER for body in bodies)

        two.wait(answers_everywhere, "the new classes answer in both processes", WAIT_S)
        count = len(asker.answers)
        two.wait(lambda: len(asker.answers) > count + 8, "they go on answering", WAIT_S)
    assert {status for status, _ in asker.answers} == {200}
    assert seen_of(asker.answers) == {0: {frozenset(BEFORE)}, 1: {frozenset(AFTER)}}
    body = httpx.get(url).json()
    assert (body["model_version"], body["prompt"]) == (1, "a sketch of a {}.")
    assert (body["request"]["stage"], body["request"]["version"]) == ("done", 1)
    wrong = httpx.post(two.url + "/v1/feedback", json={"image_id": "a", "label": "car"})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "label")


def test_the_command_line_waits_until_the_worker_has_made_the_version(
    two: System, prepared: Settings
) -> None:
    (file := prepared.home / "names.json").write_text(json.dumps(AFTER))
    done = run(prepared, "versions", "classes", "--set", str(file), "--wait", str(WAIT_S))
    assert (done.returncode, "version 1 has these classes" in done.stderr) == (0, True), done.stderr
    two.wait(lambda: two.serving() == 1, "version 1 serves", WAIT_S)
    again = run(prepared, "versions", "classes", "--set", str(file), "--json")
    assert (again.returncode, json.loads(again.stdout)["model_version"]) == (0, 1)
