"""Claims about the command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from adaptsvc.classify import classify_by, classify_here, current_predictor
from adaptsvc.config import Settings
from adaptsvc.deadletters import bury
from adaptsvc.errors import AdaptsvcError, NotAnImageError
from adaptsvc.processes import Child, check_port, stop_all
from adaptsvc.versions.pointer import FilePointer
from streams.again import in_order, spans
from streams.message import Message, NewMessage
from streams.sqlite import SqliteLog
from streams.topics import load_topics

ONE = pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)


def run(
    settings: Settings, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "adaptsvc", *arguments],
        env={
            **os.environ,
            "ADAPTSVC_HOME": str(settings.home),
            "ADAPTSVC_MODEL": settings.model,
            "ADAPTSVC_CLASSES": json.dumps(settings.classes),
            "COLUMNS": "400",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def photo(tmp_path: Path, png: Callable[[int], bytes]) -> Path:
    file = tmp_path / "photo.png"
    file.write_bytes(png(0))
    return file


@ONE
def test_classify_prints_label_confidence_score_and_version(
    prepared: Settings, photo: Path
) -> None:
    done = run(prepared, "classify", str(photo), "--json")
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)
    assert row["label"] in prepared.classes
    assert 0 < row["confidence"] <= 1
    assert (row["version"], row["error"]) == (0, "")


@ONE
def test_classify_takes_other_class_names(prepared: Settings, photo: Path) -> None:
    done = run(prepared, "classify", str(photo), "--classes", "tree, house,boat", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["label"] in {"tree", "house", "boat"}


@ONE
def test_a_file_that_is_no_image_is_named_in_its_row_and_the_status_is_1(
    prepared: Settings, photo: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "notes.jpg"
    bad.write_text("notes")
    done = run(prepared, "classify", str(photo), str(bad))
    assert done.returncode == 1
    assert "not a format we read" in done.stdout.replace("\n", " ")
    assert photo.name in done.stdout.replace("\n", "")


@ONE
def test_wrong_use_is_status_2_and_names_the_key(prepared: Settings) -> None:
    done = run(prepared, "versions", "list", ADAPTSVC_LEARN__ROUND_IMAGES="none")
    assert done.returncode == 2
    assert "learn.round_images" in done.stderr
    assert run(prepared, "versions", "list", ADAPTSVC_LERN__PASSES="1").returncode == 2
    assert run(prepared, "classify").returncode == 2


@ONE
def test_the_service_refuses_to_listen_on_the_open_network(prepared: Settings) -> None:
    done = run(prepared, "serve", ADAPTSVC_SERVE__HOST="0.0.0.0")
    assert done.returncode == 2
    assert "0.0.0.0" in done.stderr


def test_where_there_is_no_version_yet_the_list_says_how_one_is_made(tmp_path: Path) -> None:
    nothing = Settings(home=tmp_path / "home")
    listed, as_json = run(nothing, "versions", "list"), run(nothing, "versions", "list", "--json")
    assert (listed.returncode, json.loads(as_json.stdout)) == (0, [])
    assert listed.stdout.startswith("no version yet: ")


@ONE
def test_versions_are_listed_shown_and_activated(prepared: Settings) -> None:
    (listed,) = json.loads(run(prepared, "versions", "list", "--json").stdout)
    assert (listed["id"], listed["method"], listed["serving"]) == (0, "zero-shot", True)
    assert json.loads(run(prepared, "versions", "show", "0").stdout)["id"] == 0
    before = FilePointer(prepared.pointer).read().sequence
    assert run(prepared, "versions", "activate", "0").returncode == 0
    assert FilePointer(prepared.pointer).read().sequence == before + 1
    missing = run(prepared, "versions", "activate", "7")
    assert missing.returncode == 1
    assert "version 7" in missing.stderr


def sent_to(settings: Settings, topic: str) -> dict[str, Message]:
    """The messages of a topic, by key."""
    topics = load_topics()
    with closing(SqliteLog(settings.stream_file, topics)) as log:
        return {m.key: m for m in in_order(log, spans(log, topics, topic))}


@ONE
def test_replay_sends_a_folder_and_says_how_many(prepared: Settings, photo: Path) -> None:
    done = run(prepared, "replay", str(photo.parent))
    assert done.returncode == 0
    assert done.stdout == "1 images sent to images.unlabeled\n"
    assert run(prepared, "replay", str(prepared.store)).returncode == 1


@ONE
def test_dead_letters_are_sent_back_once_as_they_were(prepared: Settings) -> None:
    stream = SqliteLog(prepared.stream_file, load_topics())
    dead = Message("images.unlabeled", 1, 5, "a", b"text", {"source": b"test"}, 0.0)
    bury(stream, [(dead, NotAnImageError("no image"))])
    stream.append("images.deadletter", [NewMessage("no letter", b"")])
    done = run(prepared, "replay", "--from", "deadletter")
    assert (done.returncode, done.stdout) == (0, "1 dead letters sent back, 1 cannot be\n")
    assert "only dead letters can be sent back" in done.stderr
    again = run(prepared, "replay", "--from", "deadletter")
    assert again.stdout == "0 dead letters sent back, 0 cannot be\n"
    partitions = load_topics().partitions(["images.unlabeled"])
    (sent,) = [m for p in partitions for m in stream.read(p, offset=0, limit=9)]
    stream.close()
    assert (sent.key, sent.value, sent.headers) == ("a", b"text", {"source": b"test"})


@ONE
def test_replay_of_nothing_of_both_and_of_another_source_are_wrong_use(
    prepared: Settings, photo: Path
) -> None:
    for arguments in ([], [str(photo.parent), "--from", "deadletter"], ["--from", "grave"]):
        done = run(prepared, "replay", *arguments)
        assert done.returncode == 2
        assert "or --from deadletter" in done.stderr


def test_replay_sends_a_topic_to_another_keeping_keys_and_headers(
    prepared: Settings, photo: Path
) -> None:
    run(prepared, "replay", str(photo.parent))
    done = run(prepared, "replay", "images.unlabeled", "--topic", "images.labeled", "--json")
    figures = json.loads(done.stdout)
    assert (figures["sent"], figures["origin"], figures["unreadable"]) == (1, "topic", [])
    before, after = (
        sent_to(prepared, t)["photo.png"] for t in ("images.unlabeled", "images.labeled")
    )
    assert (after.value, after.headers) == (before.value, before.headers)


@ONE
def test_replay_corrupts_and_names_what_is_no_image(prepared: Settings, photo: Path) -> None:
    photo.with_name("notes.jpg").write_text("no image")
    done = run(prepared, "replay", str(photo.parent), "--corruption", "contrast", "--severity", "5")
    assert (done.returncode, done.stdout) == (1, "1 images sent to images.unlabeled\n")
    assert "1 cannot be read as images and were left out: notes.jpg" in done.stderr
    (message,) = sent_to(prepared, "images.unlabeled").values()
    assert message.headers["corruption"] == b"contrast/5/0"


@ONE
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "expected a folder that exists"),
        (["clothes", "--topic", "images.unknown"], "expected one of images.labeled"),
        (["clothes", "--topic", "images.deadletter"], "expected one of images.labeled"),
        (["clothes", "--offsets", "1:2"], "are of a topic"),
        (["images.unlabeled", "--offsets", "first"], "for example 100:200"),
        (["clothes", "--corruption", "rain"], "gaussian_noise"),
        (["clothes", "--severity", "2"], "without --corruption"),
        (["clothes", "--corruption", "contrast", "--severity", "6"], "--severity"),
    ],
)
def test_wrong_use_of_replay_is_status_2_and_says_what_is_right(
    prepared: Settings, arguments: list[str], says: str
) -> None:
    done = run(prepared, "replay", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


@ONE
def test_labels_are_sent_and_counted(prepared: Settings, photo: Path) -> None:
    labels = photo.with_name("labels.csv")
    labels.write_text("image,label\nphoto.png,cat\nseen-before,dog\n")
    done = run(prepared, "label", str(labels))
    told = "1 of them for images sent before (seen-before, ...)"
    assert done.stdout == f"2 labels sent to images.labeled, {told}; 64 new ones start a round\n"


@ONE
def test_labels_that_are_no_class_names_are_wrong_use(prepared: Settings, photo: Path) -> None:
    labels = photo.with_name("labels.csv")
    labels.write_text("image,label\nphoto.png,giraffe\n")
    done = run(prepared, "label", str(labels))
    assert (done.returncode, done.stdout) == (2, "")
    assert "has the labels giraffe, which are no class names; expected cat, dog, car" in done.stderr


@ONE
def test_export_finds_what_is_there(prepared: Settings) -> None:
    done = run(prepared, "export")
    assert done.returncode == 0
    assert "session swap" in done.stdout
    assert "version 0 serves" in done.stdout


@ONE
def test_rows_of_the_library_are_those_of_the_command(prepared: Settings, photo: Path) -> None:
    predictor = current_predictor(prepared)
    assert predictor is not None
    (row,) = classify_here([photo], predictor, prepared)
    (printed,) = json.loads(run(prepared, "classify", str(photo), "--json").stdout)
    assert (printed["label"], printed["confidence"]) == (row.label, pytest.approx(row.confidence))


def test_a_service_that_is_not_there_is_named(photo: Path) -> None:
    with pytest.raises(AdaptsvcError, match="is 'adaptsvc up' running"):
        classify_by("http://127.0.0.1:9", [photo])


def test_stopping_children_ends_also_what_they_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; "
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(inner.pid, flush=True); inner.wait()"
    )
    log = tmp_path / "log"
    child = Child.start("parent", [sys.executable, "-c", code], {}, log)
    while not log.read_text().strip():
        time.sleep(0.05)
    stop_all([child], grace_s=2)
    assert not child.running
    deadline = time.monotonic() + 10
    while _computing(int(log.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _computing(int(log.read_text()))


def test_tied_children_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from adaptsvc.processes import Child; "
        "child = Child.start('tied', [sys.executable, '-c', 'import time; time.sleep(60)'], {}, tied=True); "
        "print(child.process.pid, flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    parent = Child.start("parent", [sys.executable, "-c", code], {}, log)
    while not log.read_text().strip():
        time.sleep(0.05)
    tied = int(log.read_text())
    parent.process.kill()
    deadline = time.monotonic() + 10
    while _computing(tied) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _computing(tied)
    assert parent.stop(1) == -signal.SIGKILL


def test_a_port_that_is_taken_is_said_before_anything_is_started() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(
                AdaptsvcError, match=f"port {port} of {host}: Address already in use"
            ):
                check_port(host, port)
    check_port("127.0.0.1", port)
    with pytest.raises(AdaptsvcError, match=r"port 1 of 192\.0\.2\.1: Cannot assign"):
        check_port("192.0.2.1", 1)


def _computing(process: int) -> bool:
    """Whether a process exists and is no zombie waiting to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_ignores_the_signal_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    child = Child.start("stubborn", [sys.executable, "-c", code], {}, log)
    while "on" not in log.read_text():
        time.sleep(0.05)
    assert child.stop(grace_s=0.3) == -signal.SIGKILL
