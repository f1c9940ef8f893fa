"""Claims about classes, versions and drift by the client, against the real application."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import httpx
import pytest

from adaptsvc.client import AsyncClient, Client, Options
from adaptsvc.client.calls import answering
from adaptsvc.client.reports import Classes, ClassesAsked, reading
from adaptsvc.config import Settings
from adaptsvc.errors import ServiceError
from adaptsvc.metrics import Observer
from adaptsvc.serving.door import Door, DoorMiddleware
from adaptsvc.serving.keys import Keys, new_key
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Draft
from adaptsvc.versions.tasks import FileTasks, TaskOutcome
from tests.adaptsvc.serving.bench import Stand
from tests.conftest import CLASSES

tiny = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
URL = "http://test"
OTHERS = ("dog", "lorry")
DATA, DATA_HASH = new_key("phone", "data")
ADMIN, ADMIN_HASH = new_key("ops", "admin")
MOST_BYTES = 10**6


class Bench:
    """A service, and what its worker would do."""

    def __init__(self, settings: Settings) -> None:
        self.stand = Stand(settings)
        self.tasks = FileTasks(settings.tasks)
        self.stand.live.poll()
        door, keys = Door(), Keys([DATA_HASH, ADMIN_HASH])
        door.open(keys, metrics_open=False, most_bytes=MOST_BYTES, observer=Observer())
        behind = DoorMiddleware(self.stand.app(door), door)
        self.transport = httpx.ASGITransport(app=behind)

    def client(self, key: str = ADMIN) -> AsyncClient:
        return AsyncClient(URL, Options(headers={"x-api-key": key}), transport=self.transport)

    def publish(self, classes: tuple[str, ...] = CLASSES) -> int:
        """A child of version 0 for these classes, which serves nowhere yet."""
        zero = self.stand.store.load(0)
        fields = {key: getattr(zero.manifest, key) for key in Draft.model_fields}
        rows = zero.head.class_embeddings[: len(classes)]
        head = Head(rows, zero.head.context, zero.head.self_test_embeddings)
        changes = {"classes": classes, "parent": 0, "method": "ueo", "metrics": {"agreement": 0.5}}
        return self.stand.store.publish(Draft(**{**fields, **changes}), {}, head).id

    def make(self, classes: tuple[str, ...]) -> int:
        """A version for these classes serves, and the request is answered."""
        made = self.publish(classes)
        self.stand.pointer.compare_and_set(0, made)
        self.tasks.answer(TaskOutcome(request=1, version=made))
        self.stand.live.poll()
        return made


@pytest.fixture
def bench(prepared: Settings) -> Iterator[Bench]:
    bench = Bench(prepared)
    yield bench
    bench.stand.engine.close(timeout_s=1)


def run(asking: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asking)


@tiny
def test_classes_are_asked_for_and_waited_for_until_they_answer(bench: Bench) -> None:
    async def ask() -> None:
        async with bench.client() as client:
            assert (await client.classes()) == Classes(0, CLASSES, "a photo of a {}.", None)
            asked = await client.set_classes(OTHERS, prompt="a sketch of a {}.")
            assert (asked.version, asked.classes) == (0, CLASSES), "what answers now"
            assert asked.request is not None
            assert (asked.request.stage, asked.request.classes) == ("waiting", OTHERS)
            waiting = asyncio.create_task(client.wait_for_classes(OTHERS))
            with pytest.raises(ServiceError, match="request 1, the last, is waiting"):
                await client.wait_for_classes(OTHERS, timeout_s=0)
            assert not waiting.done()
            made = bench.make(OTHERS)
            found = await waiting
            assert (found.version, found.classes) == (made, OTHERS)
            again = await client.set_classes(OTHERS)
            assert again.request is not None
            assert again.request.id == 1, "they serve already"

    run(ask())


@tiny
def test_refused_classes_are_an_error_with_the_reason(bench: Bench) -> None:
    async def ask() -> None:
        async with bench.client() as client:
            await client.set_classes(OTHERS)
            bench.tasks.answer(TaskOutcome(request=1, reason="too many tokens"))
            with pytest.raises(ServiceError, match="request 1 was refused: too many tokens"):
                await client.wait_for_classes(OTHERS)
            with pytest.raises(ServiceError, match="cat") as caught:
                await client.set_classes(["cat", "cat"])
            assert (caught.value.status, caught.value.field) == (422, "classes")

    run(ask())


def saying(
    stage: str | None, asked: tuple[str, ...] = OTHERS, now: tuple[str, ...] = CLASSES
) -> Classes:
    request = {"id": 1, "classes": asked, "prompt": "a {}", "at": "2026-01-01T00:00:00Z"}
    rest = {"stage": stage, "version": None, "reason": "too long"}
    return reading(Classes)(
        {
            "model_version": 4,
            "classes": now,
            "prompt": "a {}",
            "request": None if stage is None else {**request, **rest},
        }
    )


@pytest.mark.parametrize(
    ("found", "prompt", "expected"),
    [
        (saying(None, now=OTHERS), None, True),
        (saying(None), None, False),
        (saying("waiting"), None, False),
        (saying("waiting", now=OTHERS), None, False),
        (saying("done"), None, False),
        (saying("done", now=OTHERS), None, True),
        (saying("done", now=OTHERS), "a {}", True),
        (saying("done", now=OTHERS), "the {}", False),
        (saying("refused", asked=CLASSES, now=OTHERS), None, True),
        (saying("waiting", asked=CLASSES, now=OTHERS), None, True),
    ],
)
def test_classes_have_come_when_they_answer_and_no_request_for_them_waits(
    found: Classes, prompt: str | None, expected: bool
) -> None:
    assert answering(found, OTHERS, prompt) is expected


@tiny
def test_versions_are_listed_shown_compared_activated_and_pinned(bench: Bench) -> None:
    bench.publish()
    bench.publish()

    async def ask() -> None:
        async with bench.client() as client:
            history = await client.versions()
            assert (history.serving, history.held, history.shadow) == (0, False, None)
            assert [(v.id, v.method, v.serving) for v in history.versions] == [
                (0, "zero-shot", True),
                (1, "ueo", False),
                (2, "ueo", False),
            ]
            newest = await client.versions(limit=1)
            assert ([v.id for v in newest.versions], newest.before) == ([2], 2)
            assert [v.id for v in (await client.versions(before=1)).versions] == [0]
            detail = await client.version(1)
            assert (detail.metrics, detail.condition) == ({"agreement": 0.5}, "kept")
            assert detail.manifest is not None
            assert detail.manifest["id"] == 1
            change = await client.diff(1)
            assert (change.before, change.after, change.fields["method"].after) == (0, 1, "ueo")
            assert (await client.diff(2, against=1)).before == 1
            held = await client.activate(2, hold=True)
            assert (held.version, held.held) == (2, True)
            assert (await client.versions()).held
            assert not (await client.activate(0)).held
            await client.pin(1)
            assert (await client.version(1)).pinned is True
            await client.unpin(1)
            assert (await client.version(1)).pinned is False
            with pytest.raises(ServiceError) as caught:
                await client.pin(9)
            assert (caught.value.status, caught.value.field) == (404, "id")
        async with bench.client(DATA) as client:
            assert (await client.versions()).serving == 0
            with pytest.raises(ServiceError) as caught:
                await client.activate(1)
            assert (caught.value.status, caught.value.field) == (403, "authorization")

    run(ask())


@tiny
def test_drift_is_told_signal_by_signal(bench: Bench) -> None:
    async def ask() -> None:
        async with bench.client() as client:
            drift = await client.drift()
            assert (drift.version, drift.reference, drift.alarms) == (0, None, ())
            assert [each.signal for each in drift.signals][:2] == ["embedding", "confidence"]

    run(ask())


def test_both_clients_ask_for_the_same_with_the_same_arguments() -> None:
    def asks(client: type[Any]) -> dict[str, object]:
        public = {name: call for name, call in vars(client).items() if not name.startswith("_")}
        annotations = {name: dict(call.__annotations__) for name, call in public.items()}
        return {name: (annotations[name], call.__kwdefaults__) for name, call in public.items()}

    assert asks(Client) == asks(AsyncClient)


def test_the_client_that_waits_sends_the_same_calls() -> None:
    sent: list[tuple[str, str]] = []
    answers = [
        saying("waiting", now=CLASSES),
        saying("waiting", now=CLASSES),
        saying("done", now=OTHERS),
    ]

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, str(request.url)))
        found = answers.pop(0)
        assert isinstance(found.request, ClassesAsked)
        asked = {name: getattr(found.request, name) for name in ClassesAsked.__slots__}
        body = {"model_version": 4, "classes": found.classes, "prompt": "a {}", "request": asked}
        return httpx.Response(
            200, json={**body, "request": {**asked, "at": "2026-01-01T00:00:00Z"}}
        )

    with Client(URL, transport=httpx.MockTransport(handle)) as client:
        client.set_classes(OTHERS)
        assert client.wait_for_classes(OTHERS).classes == OTHERS
    assert sent == [("PUT", f"{URL}/v1/classes")] + [("GET", f"{URL}/v1/classes")] * 2
