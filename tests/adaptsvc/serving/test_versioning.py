"""Claims about /v1/versions: the history, rollback and pins over HTTP, behind the door."""

from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient

from adaptsvc.config import Settings
from adaptsvc.metrics import Observer
from adaptsvc.serving.door import Door, DoorMiddleware
from adaptsvc.serving.keys import Keys, new_key
from adaptsvc.versions.history import Desk
from adaptsvc.versions.manifest import Draft
from adaptsvc.versions.pins import FilePins
from adaptsvc.versions.pointer import Current, FilePointer
from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.serving.bench import Stand

pytestmark = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
DATA, DATA_HASH = new_key("phone", "data")
ADMIN, ADMIN_HASH = new_key("ops", "admin")


class Bench:
    """Three versions, of which the last one serves, and a client with each key."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = VersionStore(settings.store)
        self.pointer = FilePointer(settings.pointer)
        self.desk = Desk(self.store, self.pointer, FilePins(settings.pins))
        for parent in (0, 1):
            self.publish(parent)
        self.pointer.force(2)
        stand = Stand(settings)
        self.live = stand.live
        self.live.poll()
        door = Door()
        door.open(
            Keys([DATA_HASH, ADMIN_HASH]),
            metrics_open=False,
            most_bytes=1000,
            observer=Observer(),
        )
        behind = DoorMiddleware(stand.app(door), door)
        self.data = TestClient(behind, headers={"x-api-key": DATA})
        self.admin = TestClient(behind, headers={"authorization": f"Bearer {ADMIN}"})

    def publish(self, parent: int) -> None:
        """A child with what version 0 has, and figures of its own."""
        zero = self.store.load(0)
        fields = {key: getattr(zero.manifest, key) for key in Draft.model_fields}
        changes = {"parent": parent, "method": "ueo", "metrics": {"agreement": 0.5 + parent / 10}}
        self.store.publish(Draft(**{**fields, **changes}), zero.delta, zero.head)

    def damage(self, version: int, name: str = "head.safetensors") -> None:
        path = self.settings.store / "versions" / f"{version:06d}" / name
        path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture
def bench(prepared: Settings) -> Bench:
    return Bench(prepared)


def test_the_history_has_every_version_with_its_figures_and_what_serves(bench: Bench) -> None:
    body = bench.data.get("/v1/versions").json()
    assert (body["serving"], body["held"], body["before"]) == (2, False, None)
    assert [(v["id"], v["parent"], v["method"]) for v in body["versions"]] == [
        (0, None, "zero-shot"),
        (1, 0, "ueo"),
        (2, 1, "ueo"),
    ]
    assert [v["serving"] for v in body["versions"]] == [False, False, True]
    assert body["versions"][2]["metrics"] == {"agreement": 0.6}


def test_the_history_says_why_candidates_were_refused(bench: Bench) -> None:
    zero = bench.store.load(0)
    fields = {key: getattr(zero.manifest, key) for key in Draft.model_fields}
    bench.store.refuse(Draft(**{**fields, "parent": 2}), zero.delta, zero.head, ["collapsed"])
    (refused,) = bench.data.get("/v1/versions").json()["refused"]
    assert (refused["parent"], refused["reasons"]) == (2, ["collapsed"])


def test_a_long_history_comes_in_pieces(bench: Bench) -> None:
    first = bench.data.get("/v1/versions", params={"limit": 2}).json()
    assert ([v["id"] for v in first["versions"]], first["before"]) == ([1, 2], 1)
    second = bench.data.get("/v1/versions", params={"limit": 2, "before": 1}).json()
    assert ([v["id"] for v in second["versions"]], second["before"]) == ([0], None)


def test_a_pruned_version_is_history_and_cannot_be_activated(bench: Bench) -> None:
    bench.store.prune(1)
    conditions = [v["condition"] for v in bench.data.get("/v1/versions").json()["versions"]]
    assert conditions == ["kept", "pruned", "kept"]
    assert bench.data.get("/v1/versions/1").json()["manifest"]["id"] == 1
    refused = bench.admin.post("/v1/versions/1/activate")
    assert (refused.status_code, refused.json()["error"]["field"]) == (404, "id")
    assert bench.pointer.read().version == 2


@pytest.mark.parametrize("name", ["head.safetensors", "manifest.json"])
def test_a_damaged_version_is_listed_with_the_reason_and_cannot_be_activated(
    bench: Bench, name: str
) -> None:
    bench.damage(1, name)
    found = bench.data.get("/v1/versions/1").json()
    assert (found["condition"], found["code"], found["manifest"]) == ("refused", "altered", None)
    assert "version 1" in found["reason"]
    assert bench.data.get("/v1/versions").status_code == 200
    refused = bench.admin.post("/v1/versions/1/activate")
    assert refused.status_code == 409
    assert "altered" in refused.json()["error"]["message"]
    assert bench.pointer.read().version == 2


def test_going_back_over_http_makes_the_earlier_version_serve(bench: Bench) -> None:
    answer = bench.admin.post("/v1/versions/0/activate").json()
    assert answer == {"model_version": 0, "held": False, "sequence": bench.pointer.read().sequence}
    bench.live.poll()
    assert bench.data.get("/v1/model").json()["model_version"] == 0


def test_a_held_version_is_said_to_be_held_until_it_is_let_go(bench: Bench) -> None:
    sequence = bench.pointer.read().sequence
    assert bench.admin.post("/v1/versions/1/activate", params={"hold": True}).json()["held"]
    assert bench.pointer.read() == Current(1, sequence + 1, held=True)
    assert bench.data.get("/v1/versions").json()["held"]
    bench.admin.post("/v1/versions/1/activate")
    assert not bench.data.get("/v1/versions").json()["held"]


def test_pins_are_set_shown_and_taken_away(bench: Bench) -> None:
    assert bench.admin.post("/v1/versions/1/pin").json() == {"id": 1, "pinned": True}
    pinned = [v["pinned"] for v in bench.data.get("/v1/versions").json()["versions"]]
    assert pinned == [False, True, False]
    assert bench.admin.post("/v1/versions/1/unpin").json() == {"id": 1, "pinned": False}
    assert bench.desk.pins.read() == frozenset()


def test_activating_leaves_no_pin_behind_and_keeps_one(bench: Bench) -> None:
    bench.admin.post("/v1/versions/1/activate")
    assert bench.desk.pins.read() == frozenset()
    bench.admin.post("/v1/versions/1/pin")
    bench.admin.post("/v1/versions/1/activate")
    assert bench.desk.pins.read() == {1}


def test_the_difference_to_the_parent_or_to_any_other_is_told(bench: Bench) -> None:
    found = bench.data.get("/v1/versions/2/diff").json()
    assert (found["before"], found["after"]) == (1, 2)
    assert found["metrics"] == {"agreement": {"before": 0.5, "after": 0.6}}
    found = bench.data.get("/v1/versions/2/diff", params={"against": 0}).json()
    assert found["fields"]["method"] == {"before": "zero-shot", "after": "ueo"}
    assert bench.data.get("/v1/versions/0/diff").status_code == 422


@pytest.mark.parametrize("what", ["activate", "pin", "unpin"])
def test_a_data_key_changes_nothing(bench: Bench, what: str) -> None:
    before = bench.pointer.read()
    response = bench.data.post(f"/v1/versions/1/{what}")
    assert (response.status_code, response.json()["error"]["field"]) == (403, "authorization")
    assert (bench.pointer.read(), bench.desk.pins.read()) == (before, frozenset())


@pytest.mark.parametrize("what", ["activate", "pin", "unpin"])
def test_a_version_that_never_was_is_a_404_and_one_that_is_no_number_a_422(
    bench: Bench, what: str
) -> None:
    assert bench.admin.post(f"/v1/versions/7/{what}").status_code == 404
    for wrong in ("-1", "one", "1e3", "9" * 30, "9" * 5000):
        assert bench.admin.post(f"/v1/versions/{wrong}/{what}").status_code == 422
    assert bench.desk.pins.read() == frozenset()


def test_who_changed_what_is_logged_by_the_name_of_the_key_and_never_the_key(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        bench.admin.post("/v1/versions/1/activate", params={"hold": True})
        bench.admin.post("/v1/versions/1/pin")
        bench.data.post("/v1/versions/1/pin")
        bench.data.get("/v1/model", headers={"x-api-key": "wrong-key"})
    assert "key ops: version 1 serves and is held" in caplog.text
    assert "key ops: version 1 is pinned" in caplog.text
    assert not any(key in caplog.text for key in (DATA, ADMIN, "wrong-key"))


def test_a_store_that_is_gone_is_a_503(bench: Bench) -> None:
    bench.settings.store.rename(bench.settings.home / "unmounted")
    for path in ("/v1/versions", "/v1/versions/0", "/v1/versions/0/diff?against=0"):
        response = bench.data.get(path)
        assert (response.status_code, response.json()["error"]["field"]) == (503, "store")


def test_a_damaged_pointer_is_no_conflict_of_those_who_read(bench: Bench) -> None:
    bench.settings.pointer.write_bytes(b"junk")
    for path in ("/v1/versions", "/v1/versions/0"):
        assert bench.data.get(path).status_code == 503
