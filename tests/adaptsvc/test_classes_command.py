"""Claims about `adaptsvc versions classes`: the files it takes, how long it waits, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptsvc.classes_command import read_wanted, wait_for_answer
from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.types import Task
from adaptsvc.versions.tasks import Asked, FileTasks, TaskOutcome
from tests.adaptsvc.test_cli import run

ONE = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)


@pytest.mark.parametrize(
    ("name", "text", "prompt"),
    [
        ("names.txt", "cat\n\n  hot dog \r\n", None),
        ("names", "\ufeffcat\nhot dog", None),
        ("names.json", '["cat", "hot dog"]', None),
        ("names.json", '{"classes": ["cat", "hot dog"], "prompt": "art of {}"}', "art of {}"),
        ("names.yaml", "- cat\n- hot dog\n", None),
        ("names.yml", "prompt: art of {}\nclasses: [cat, hot dog]", "art of {}"),
    ],
)
def test_names_come_one_a_line_or_as_json_or_yaml(
    tmp_path: Path, name: str, text: str, prompt: str | None
) -> None:
    (file := tmp_path / name).write_text(text, encoding="utf-8")
    found = read_wanted(file)
    assert (found.classes, found.prompt) == (("cat", "hot dog"), prompt)
    assert read_wanted(file, "a drawing of {}").prompt == "a drawing of {}"


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("names.txt", b"", "classes"),
        ("names.txt", b"cat\ncat\n", "each class name once"),
        ("names.txt", b"cat\n" + b"x" * 201, "1 to 200 characters"),
        ("names.txt", b"\xff\xfe\x00", "cannot be read"),
        ("names.txt", b"\n".join(b"%d" % n for n in range(10_001)), "10000"),
        ("names.json", b"[", "cannot be read"),
        ("names.json", b'"cat"', "classes"),
        ("names.json", b'{"names": ["cat", "dog"]}', "classes"),
        ("names.yaml", b"[cat, no]", "classes.1"),
        ("names.yaml", b"classes: [cat, dog]\nprompt: a photo", "prompt"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    (file := tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=named) as error:
        read_wanted(file)
    assert str(file) in str(error.value)


def test_waiting_ends_with_the_answer_or_with_the_time(tmp_path: Path) -> None:
    tasks, now = FileTasks(tmp_path / "CLASSES"), [0.0]
    request = tasks.ask(Task(("cat", "dog"), "art of {}"))

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 5:
            tasks.answer(TaskOutcome(request=request.id, version=3))

    def wait(timeout_s: float) -> Asked:
        return wait_for_answer(tasks.read, timeout_s, lambda: now[0], sleep)

    assert wait(2).stage == "waiting"
    assert 2 <= now[0] < 3
    assert wait(60).stage == "done"
    assert now[0] < 6


@ONE
def test_the_command_tells_what_serves_and_asks_for_others(
    prepared: Settings, tmp_path: Path
) -> None:
    (file := tmp_path / "names.txt").write_text("ship\nfrog\n")
    found = run(prepared, "versions", "classes")
    assert found.stdout.startswith("version 0 serves 3 classes: cat, dog, car\n")
    asked = run(prepared, "versions", "classes", "--set", str(file), "--wait", "0")
    assert asked.returncode == 1
    assert "no worker has answered request 1" in asked.stderr
    body = json.loads(run(prepared, "versions", "classes", "--json").stdout)
    assert (body["model_version"], body["classes"]) == (0, ["cat", "dog", "car"])
    assert (body["request"]["stage"], body["request"]["classes"]) == ("waiting", ["ship", "frog"])


@ONE
def test_wrong_use_asks_for_nothing(prepared: Settings, tmp_path: Path) -> None:
    (file := tmp_path / "names.txt").write_text("ship\nship\n")
    assert run(prepared, "versions", "classes", "--set", str(file)).returncode == 2
    assert run(prepared, "versions", "classes", "--prompt", "art of {}").returncode == 2
    assert run(prepared, "versions", "classes", "--set", str(tmp_path / "none")).returncode == 1
    assert FileTasks(prepared.tasks).read().request is None
