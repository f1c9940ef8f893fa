"""Requests in a file keep the contract; what is no request is refused, and what is asked for is checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from adaptsvc.errors import VersionCorruptError
from adaptsvc.versions.lease import FileLease
from adaptsvc.versions.tasks import MOST_CLASSES, FileTasks, Tasks, Wanted
from tests.adaptsvc.versions.contract_tasks import FIRST, TasksContract


@pytest.fixture
def open_tasks(tmp_path: Path) -> Callable[[], Tasks]:
    return lambda: FileTasks(tmp_path / "CLASSES")


@pytest.fixture
def open_fenced(tmp_path: Path) -> Callable[[bool], Tasks]:
    def make(ours: bool) -> Tasks:
        lease = FileLease(tmp_path / "WORKER")
        assert not ours or lease.acquire()
        return FileTasks(tmp_path / "CLASSES", fence=lease.check)

    return make


class TestFileTasks(TasksContract):
    """All of the contract."""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"request": 3}', b'{"requests": null}'])
def test_what_is_no_request_is_refused_and_asking_begins_anew(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "CLASSES").write_bytes(content)
    tasks = FileTasks(tmp_path / "CLASSES")
    with pytest.raises(VersionCorruptError, match="versions classes --set"):
        tasks.read()
    assert tasks.ask(FIRST).id > 10**9, "above any number so far"
    assert tasks.read().stage == "waiting"


BAD: list[dict[str, Any]] = [
    {"classes": []},
    {"classes": ["cat"]},
    {"classes": ["cat", "cat"]},
    {"classes": ["cat", " "]},
    {"classes": ["cat", "do\ng"]},
    {"classes": ["cat", "x" * 201]},
    {"classes": ["cat", 3]},
    {"classes": [str(n) for n in range(MOST_CLASSES + 1)]},
    {"classes": ["cat", "dog"], "prompt": "a photo"},
    {"classes": ["cat", "dog"], "prompt": "a {} and a {}"},
    {"classes": ["cat", "dog"], "prompt": "a {0} photo"},
    {"classes": ["cat", "dog"], "prompt": "{} in a photo"},
    {"classes": ["cat", "dog"], "prompt": "a photo\nof a {}"},
    {"classes": ["cat", "dog"], "prompt": "x" * 500 + " {}"},
    {"classes": ["cat", "dog"], "names": []},
    {"prompt": "a photo of a {}."},
]


@pytest.mark.parametrize("content", BAD)
def test_classes_that_cannot_be_told_apart_or_filled_in_are_refused(
    content: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        Wanted.model_validate(content)
