"""Claims about the files of /ui: complete, as others made them where they did, and all that is open."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adaptsvc.metrics import Observer
from adaptsvc.serving.door import Door, DoorMiddleware
from adaptsvc.serving.keys import Keys, new_key
from adaptsvc.serving.page import FOLDER, PATH, POLICY, add_page, assets

ROOT = Path(__file__).parents[3]
FILES = assets()
OWN = sorted(path for path in FOLDER.iterdir() if path.is_file())
# SHA-256 of the files as npm has them, by package and version.
VENDORED = {
    "lit-html.js": (
        "lit-html 3.3.3",
        "b878e7f95dec8a9b6e9b217faca6b6a11bad82ebc44c0caa77419ed83edd81f2",
    ),
    "pico.min.css": (
        "@picocss/pico 2.1.1",
        "fbc9a63fc9fc9f72d12fd7fc9806e11fa9f77ae4f9cad146b27003a1119ba3db",
    ),
    "uPlot.iife.min.js": (
        "uplot 1.6.32",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    "uPlot.min.css": (
        "uplot 1.6.32",
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    ),
}
MOST_BYTES = 200_000


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    add_page(app, FILES)
    _, known = new_key("phone", "data")
    door = Door()
    door.open(Keys([known]), metrics_open=False, most_bytes=1, observer=Observer(), page=FILES)
    return TestClient(DoorMiddleware(app, door), base_url="http://a.example")


@pytest.mark.parametrize("path", FILES)
def test_every_file_is_answered_without_a_key_and_may_load_nothing_from_elsewhere(
    client: TestClient, path: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/ui/", "/ui/../v1/model", "/ui/index.html", "/uix", "/v1/model"])
def test_only_the_files_are_open(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 401


def test_without_keys_the_page_is_for_loopback_alone() -> None:
    app = FastAPI()
    add_page(app, FILES)
    door = Door()
    door.open(Keys([]), metrics_open=False, most_bytes=1, observer=Observer(), page=FILES)
    behind = DoorMiddleware(app, door)
    assert TestClient(behind, base_url="http://127.0.0.1:3000").get(PATH).status_code == 200
    assert TestClient(behind, base_url="http://a.example").get(PATH).status_code == 403


def test_the_policy_lets_no_inline_script_or_style_run() -> None:
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'")
    page = FILES[PATH].body.decode()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)
    for path in OWN:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|innerHTML|unsafeHTML|\beval\(", text), path.name
        assert not re.search(r"localStorage|sessionStorage|document\.cookie|indexedDB", text)


def test_every_file_that_one_names_is_there() -> None:
    named = re.findall(r'(?:src|href)="(ui/[^"]+)"', FILES[PATH].body.decode())
    assert named
    for path in OWN:
        imported = re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8"))
        named += [f"ui/{name}" for name in imported]
    assert {f"/{name}" for name in named} <= set(FILES)


@pytest.mark.parametrize("name", VENDORED)
def test_what_others_made_is_unaltered_licensed_and_named_in_the_notice(name: str) -> None:
    package, digest = VENDORED[name]
    body = FILES[f"{PATH}/vendor/{name}"].body
    assert hashlib.sha256(body).hexdigest() == digest
    assert package in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_every_licence_is_beside_its_files_and_nothing_else_is() -> None:
    found = {path.name for path in (FOLDER / "vendor").iterdir()}
    licences = {f"LICENSE-{name}.txt" for name in ("lit-html", "pico", "uPlot")}
    assert found == licences | set(VENDORED)


def test_the_page_stays_light_and_the_readme_says_how_light() -> None:
    weight = sum(len(asset.body) for asset in FILES.values())
    assert weight < MOST_BYTES
    assert f"{weight / 1000:.0f} kB" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 400 for path in OWN)
