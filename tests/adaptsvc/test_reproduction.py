"""Rounds of the real worker run again from the stream: the same delta, or the reason why not."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from adaptsvc.bootstrap import build_worker
from adaptsvc.cli import app
from adaptsvc.config import Settings
from adaptsvc.errors import NotReproducibleError, VersionCorruptError, VersionNotFoundError
from adaptsvc.metrics import Observer
from adaptsvc.reproduction import reproduce
from adaptsvc.streaming import open_log
from adaptsvc.types import Float32, Tensors
from adaptsvc.versions.delta import to_bytes
from adaptsvc.versions.manifest import Manifest
from adaptsvc.versions.round_record import parse_record
from adaptsvc.versions.store import DELTA, MANIFEST, RECORD, Version, VersionStore
from streams.again import in_order, spans
from streams.message import NewMessage
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.conftest import settings_for

pytestmark = pytest.mark.usefixtures("one_thread")
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
COLOURS = ((230, 30, 30), (30, 200, 60), (40, 60, 240))
LENIENT = {"agreement": 0.0, "marginal_entropy_kept": 0.0}
UNLABELED = "images.unlabeled"


def lenient(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """Random towers keep little of what the guard asks for."""
    merged = {"guard": LENIENT, **sections}
    update = {name: getattr(settings, name).model_copy(update=v) for name, v in merged.items()}
    return settings.model_copy(update=update)


def work(settings: Settings) -> None:
    """The real worker on the SQLite log, until it has read everything."""
    worker = build_worker(settings, Observer(), threading.Event())
    worker.restore()
    while worker.run_once(1000.0).received:
        pass
    worker.run_once(1e9)  # checkpoint and commit
    worker._consumer.close()


def send(settings: Settings, messages: list[NewMessage], topic: str = UNLABELED) -> None:
    with closing(open_log(settings)) as log:
        log.append(topic, messages)


def images(png: Callable[[int], bytes], start: int, count: int = 16) -> list[NewMessage]:
    return [NewMessage(f"image-{n}", png(n)) for n in range(start, start + count)]


def one_colour(number: int) -> bytes:
    colour = tuple(value - number % 16 for value in COLOURS[number % 3])
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def learned_home(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_home: Callable[[Path], Path],
    png: Callable[[int], bytes],
) -> Callable[[Path], Path]:
    """`learned_home(directory)`: two rounds on images, the second over a restart: versions 1 and 2."""

    @cache
    def make(directory: Path) -> Path:
        home = tmp_path_factory.mktemp(f"learned-{directory.name}") / "home"
        shutil.copytree(tiny_home(directory), home)
        settings = lenient(settings_for(directory, home))
        send(
            settings, images(png, 0, 1)
        )  # at a time of its own, so that retention can take it alone
        for start, count in ((1, 15), (16, 16)):
            send(settings, images(png, start, count))
            work(settings)
        assert VersionStore(settings.store).ids() == [0, 1, 2]
        return home

    return make


@pytest.fixture
def learned(tmp_path: Path, tiny_directory: Path, learned_home: Callable[[Path], Path]) -> Settings:
    """A copy of that home, for one test alone."""
    settings = lenient(settings_for(tiny_directory, tmp_path / "home"))
    shutil.copytree(learned_home(tiny_directory), settings.home)
    return settings


@pytest.fixture
def log(learned: Settings) -> Iterator[SqliteLog]:
    with closing(open_log(learned)) as found:
        assert isinstance(found, SqliteLog)
        yield found


def moved(first: Version, second: Version) -> float:
    return max(float(np.abs(first.delta[name] - second.delta[name]).max()) for name in first.delta)


def reseal(store: VersionStore, version: int, **files: bytes | None) -> None:
    """Put other files in a version's folder, and a manifest that fits them; None takes a file out."""
    folder = store.root / "versions" / f"{version:06d}"
    manifest = store.manifest(version)
    digests = dict(manifest.files)
    for name, data in files.items():
        if data is None:
            digests.pop(name)
            (folder / name).unlink()
        else:
            digests[name] = hashlib.sha256(data).hexdigest()
            (folder / name).write_bytes(data)
    changed = manifest.model_copy(update={"files": digests})
    sealed = changed.model_copy(update={"digest": changed.content_digest()})
    (folder / MANIFEST).write_text(sealed.model_dump_json())


def shifted(delta: Tensors, by: float) -> Tensors:
    """One value of one tensor is another."""
    name = sorted(delta)[0]
    value: Float32 = delta[name].copy()
    value[0] += np.float32(by)
    return {**delta, name: value}


@pytest.mark.parametrize("version", [1, 2])
def test_a_round_on_images_gives_the_same_delta_in_every_bit(
    learned: Settings, log: SqliteLog, version: int
) -> None:
    store = VersionStore(learned.store)
    assert moved(store.load(version - 1 or 2), store.load(version)) > 1e-4, "it learned something"
    found = reproduce(learned, store, log, version)
    assert (found.verdict, found.difference, found.changed) == ("identical", 0.0, ())
    assert (found.parent, found.method, found.images) == (version - 1, "ueo", 16 * version)
    assert {g.name for g in found.groups} == {
        "norm weights",
        "norm biases",
        "prompt context",
        "class embeddings",
    }


@VIT
def test_the_record_names_the_messages_in_the_order_of_the_window(
    learned: Settings, log: SqliteLog
) -> None:
    store = VersionStore(learned.store)
    record = parse_record(store.record(2), 2)
    keys = []
    for member in record.members.rows():
        partition = load_topics().partitions([member.topic])[member.partition]
        (message,) = log.read(partition, offset=member.offset, limit=1)
        keys.append(message.key)
    assert len(set(keys)) == 32
    assert {*keys[:16]} == {f"image-{n}" for n in range(16)}
    assert record.machine.threads == 1


@VIT
def test_one_message_that_retention_removed_is_named(learned: Settings, log: SqliteLog) -> None:
    first, second, *_ = in_order(log, spans(log, load_topics(), UNLABELED))
    age_s = load_topics().spec(UNLABELED).retention_s
    report = log.enforce_retention(age_s + (first.timestamp_s + second.timestamp_s) / 2)
    assert (report.messages, first.key) == (1, "image-0")
    with pytest.raises(NotReproducibleError) as caught:
        reproduce(learned, VersionStore(learned.store), log, 2)
    place = f"{UNLABELED} partition {first.partition} offset {first.offset};"
    expected = f"1 of the 32 messages that version 2 learned from are gone from the stream: {place}"
    assert expected in str(caught.value)


@VIT
def test_many_messages_that_are_gone_are_counted(learned: Settings, log: SqliteLog) -> None:
    assert log.enforce_retention(1e11).messages == 35, "32 images, 2 rounds, a reference"
    with pytest.raises(NotReproducibleError, match=r"16 of the 16 messages .* \.\.\.;"):
        reproduce(learned, VersionStore(learned.store), log, 1)


@VIT
def test_another_image_in_the_place_of_one_is_noticed(
    learned: Settings, png: Callable[[int], bytes]
) -> None:
    learned.stream_file.unlink()
    send(learned, images(png, 100, 64))
    with (
        closing(open_log(learned)) as log,
        pytest.raises(NotReproducibleError, match="offset 0 holds another image"),
    ):
        reproduce(learned, VersionStore(learned.store), log, 1)


@VIT
@pytest.mark.parametrize(("by", "verdict"), [(4e-6, "equal"), (1e-3, "differs")])
def test_an_altered_delta_is_told_from_the_one_that_is_made_again(
    learned: Settings, log: SqliteLog, by: float, verdict: str
) -> None:
    store = VersionStore(learned.store)
    reseal(store, 2, **{DELTA: to_bytes(shifted(store.load(2).delta, by))})
    found = reproduce(learned, store, log, 2)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(by, rel=0.1)


@VIT
def test_an_altered_record_is_refused_by_its_digest(learned: Settings, log: SqliteLog) -> None:
    store = VersionStore(learned.store)
    path = store.root / "versions" / "000002" / RECORD
    path.write_bytes(path.read_bytes().replace(b'"threads":1', b'"threads":2'))
    with pytest.raises(VersionCorruptError, match=r"round\.json of version 2 was altered"):
        reproduce(learned, store, log, 2)


@VIT
def test_what_cannot_be_run_again_is_refused_with_the_reason(
    learned: Settings, log: SqliteLog
) -> None:
    store = VersionStore(learned.store)
    with pytest.raises(NotReproducibleError, match="version 0 is zero-shot"):
        reproduce(learned, store, log, 0)
    with pytest.raises(VersionNotFoundError):
        reproduce(learned, store, log, 9)
    record = store.record(2)
    reseal(store, 2, **{RECORD: None})
    with pytest.raises(NotReproducibleError, match="published before rounds were recorded"):
        reproduce(learned, store, log, 2)
    reseal(store, 2, **{RECORD: record.replace(b'"device":"cpu"', b'"device":"cuda"')})
    with pytest.raises(NotReproducibleError, match="learned on cuda"):
        reproduce(learned, store, log, 2)
    reseal(store, 2, **{RECORD: record.replace(b'"weights":"', b'"weights":"AACAv')})
    with pytest.raises(VersionCorruptError, match="weights"):
        reproduce(learned, store, log, 2)


@VIT
def test_sample_weights_that_are_not_the_models_are_refused(
    learned: Settings, log: SqliteLog
) -> None:
    store = VersionStore(learned.store)
    content = json.loads(store.record(2))
    record = parse_record(store.record(2), 2)
    from adaptsvc.versions.round_record import pack_weights

    content["weights"] = pack_weights((record.sample_weights() * 0.5).tolist())
    reseal(store, 2, **{RECORD: json.dumps(content).encode()})
    with pytest.raises(NotReproducibleError, match="sample weight"):
        reproduce(learned, store, log, 2)


@VIT
def test_another_machine_is_named(learned: Settings, log: SqliteLog) -> None:
    store = VersionStore(learned.store)
    content = json.loads(store.record(1))
    content["machine"].update(cpu="an abacus", ranks=2)
    reseal(store, 1, **{RECORD: json.dumps(content).encode()})
    changed = reproduce(learned, store, log, 1).changed
    assert changed[0].startswith("cpu: an abacus then, ")
    assert changed[1] == "ranks: 2 then, 1 now"


@pytest.mark.parametrize("trained", ["norm", "all"])
@VIT
def test_a_round_on_labels_gives_the_same_weights_in_every_bit(
    prepared: Settings, trained: str
) -> None:
    tune = {"labels_min": 16, "passes": 2.0, "batch_images": 6, "trained": trained}
    settings = lenient(prepared, tune=tune)
    labels = [
        NewMessage(f"taught-{k}", one_colour(k), {"label": settings.classes[k % 3].encode()})
        for k in range(16)
    ]
    send(settings, labels, "images.labeled")
    work(settings)
    store = VersionStore(settings.store)
    assert store.ids() == [0, 1]
    with closing(open_log(settings)) as log:
        found = reproduce(settings, store, log, 1)
    assert (found.verdict, found.method) == ("identical", "core")
    assert ("other weights" in {group.name for group in found.groups}) == (trained == "all")


@VIT
def test_the_command_says_whether_the_delta_is_the_same(
    learned: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTSVC_HOME", str(learned.home))
    monkeypatch.setenv("COLUMNS", "200")
    command = ["versions", "reproduce"]
    done = CliRunner().invoke(app, [*command, "1", "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert (figures["verdict"], figures["difference"], figures["images"]) == ("identical", 0.0, 16)
    done = CliRunner().invoke(app, [*command, "1"])
    assert "the same in every bit" in done.stdout
    store = VersionStore(learned.store)
    reseal(store, 1, **{DELTA: to_bytes(shifted(store.load(1).delta, 0.25))})
    done = CliRunner().invoke(app, [*command, "1"])
    assert done.exit_code == 1
    assert "differs by 0.25; at most 1e-5 is allowed" in done.stdout
    reseal(store, 1, **{DELTA: to_bytes({"another": np.zeros(1, np.float32)})})
    done = CliRunner().invoke(app, [*command, "1", "--json"])
    assert json.loads(done.stdout, parse_constant=pytest.fail)["difference"] is None
    done = CliRunner().invoke(app, [*command, "0"])
    assert isinstance(done.exception, NotReproducibleError), "which main() makes status 1"
    assert (
        "Example: adaptsvc versions reproduce"
        in CliRunner().invoke(app, [*command, "--help"]).stdout
    )


def test_a_manifest_has_the_digest_of_the_record(learned: Settings) -> None:
    store = VersionStore(learned.store)
    manifest: Manifest = store.manifest(1)
    assert manifest.files[RECORD] == hashlib.sha256(store.record(1)).hexdigest()
    assert RECORD not in store.manifest(0).files
    assert Path(store.root / "versions" / "000001" / RECORD).stat().st_size < 3000
