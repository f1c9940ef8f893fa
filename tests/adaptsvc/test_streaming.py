"""Claims about the stream that the settings name, and the commands that look after a cluster's topics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.metrics import Observer
from adaptsvc.streaming import open_log, retention
from adaptsvc.worker import Worker
from streams.errors import TopicConfigError
from streams.kafka import KafkaLog
from streams.kafka_admin import create_topics
from streams.log import MemoryLog
from streams.message import NewMessage
from streams.topics import load_topics
from tests.streams.broker import Broker

IMAGES = "images.unlabeled"
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as started:
        yield started


@pytest.fixture
def environment(broker: Broker, tmp_path: Path) -> dict[str, str]:
    """What names the broker, for a process of its own."""
    return {
        "ADAPTSVC_HOME": str(tmp_path / "home"),
        "ADAPTSVC_STREAM__KIND": "kafka",
        "ADAPTSVC_STREAM__SESSION_TIMEOUT_S": "6",
        "ADAPTSVC_STREAM__KAFKA__SERVERS": broker.server,
        "ADAPTSVC_STREAM__KAFKA__REQUEST_TIMEOUT_S": "3",
    }


def run(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "adaptsvc", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def end(worker: Worker) -> None:
    """As its process ends, without a last checkpoint."""
    worker._parts.log.close()


def test_the_default_is_a_file_and_loads_no_kafka_client(tmp_path: Path) -> None:
    code = (
        "import sys; from adaptsvc import config; from adaptsvc.streaming import open_log; "
        "print(type(open_log(config.read())).__name__, 'kafka' in sys.modules)"
    )
    home = {**os.environ, "ADAPTSVC_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True)
    assert done.stdout == "SqliteLog False\n", done.stderr


def test_retention_deletes_what_is_old_and_says_what_an_unread_message_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = 10.0**11
    with closing(open_log(Settings(home=tmp_path))) as log:
        log.append(IMAGES, [NewMessage("a", b"x")])
        with closing(log.consumer("old name", [IMAGES])) as reader:
            retention(log)(far)
            assert f"{IMAGES}[" in caplog.text
            assert "give `stream.group` its former name" in caplog.text
            (message,) = reader.poll(max_messages=1, max_bytes=10, timeout_s=0)
            reader.commit({message.topic_partition: 1})
        caplog.clear()
        retention(log)(far)
        assert (caplog.text, log.bounds(message.topic_partition).first) == ("", 1)


def test_retention_is_not_ours_where_the_log_sees_to_it() -> None:
    log = MemoryLog(load_topics())
    log.append(IMAGES, [NewMessage("a", b"x")])
    retention(log)(10.0**11)
    assert (
        sum(log.bounds(p).end - log.bounds(p).first for p in load_topics().partitions([IMAGES]))
        == 1
    )


def test_a_cluster_without_the_topics_is_refused_and_topics_create_makes_them(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(TopicConfigError, match="adaptsvc topics create"):
        open_log(config.read())
    assert run(environment, "topics", "check").returncode == 1
    done = run(environment, "topics", "create")
    assert (done.returncode, done.stdout.count("created")) == (0, 4), done.stderr
    with closing(open_log(config.read())) as log:
        assert isinstance(log, KafkaLog)


def test_topics_create_and_check_speak_json(environment: dict[str, str]) -> None:
    before = run(environment, "topics", "check", "--json")
    assert before.returncode == 1
    assert {each["topic"] for each in json.loads(before.stdout)} == {*load_topics().specs}
    made = run(environment, "topics", "create", "--json")
    assert json.loads(made.stdout) == {"created": sorted(load_topics().specs)}
    assert json.loads(run(environment, "topics", "create", "--json").stdout) == {"created": []}
    after = run(environment, "topics", "check", "--json")
    assert (after.returncode, json.loads(after.stdout)) == (0, [])


def test_topics_of_a_file_are_wrong_use(tmp_path: Path) -> None:
    done = run({"ADAPTSVC_HOME": str(tmp_path)}, "topics", "check")
    assert done.returncode == 2
    assert "ADAPTSVC_STREAM__KIND=kafka" in done.stderr


def test_a_cluster_that_is_not_there_is_a_failure_in_one_line(environment: dict[str, str]) -> None:
    gone = {**environment, "ADAPTSVC_STREAM__KAFKA__SERVERS": "127.0.0.1:1"}
    done = run(gone, "topics", "check")
    assert done.returncode == 1
    assert "kafka://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kafka", "message"),
    [
        ({"servers": "nowhere"}, "expected host:port"),
        ({"security": "SASL_SSL", "username": "u"}, "without username and password"),
        ({"step_budget_s": 400}, "less than max_poll_interval_s"),
    ],
)
def test_settings_of_a_cluster_that_contradict_each_other_are_wrong_use(
    kafka: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config.read(stream={"kind": "kafka", "kafka": kafka})
    assert config.read(stream={"kafka": kafka}).stream.kind == "sqlite"


def test_the_password_is_not_shown_by_the_settings_or_their_errors() -> None:
    kafka = {"password": "geheim", "security": "SASL_SSL"}
    with pytest.raises(ConfigError) as caught:
        config.read(stream={"kind": "kafka", "kafka": kafka})
    assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(config.read(stream={"kafka": kafka}))


def test_replay_sends_a_folder_to_the_cluster(
    environment: dict[str, str], broker: Broker, tmp_path: Path, png: Callable[..., bytes]
) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(png(seed))
    run(environment, "topics", "create")
    done = run(environment, "replay", str(tmp_path / "photos"))
    assert (done.returncode, done.stdout) == (0, f"3 images sent to {IMAGES}\n"), done.stderr
    settings = config.read(stream={"kind": "kafka", "kafka": {"servers": broker.server}})
    with closing(open_log(settings)) as log, closing(log.consumer("g", [IMAGES])) as consumer:
        found = consumer.poll(max_messages=9, max_bytes=10**6, timeout_s=10)
    assert {each.value for each in found} <= {png(seed) for seed in range(3)}
    assert found


@VIT
def test_a_worker_learns_from_a_cluster_and_goes_on_behind_its_commit(
    prepared: Settings, broker: Broker, png: Callable[..., bytes]
) -> None:
    from adaptsvc.bootstrap import build_worker

    stream = {
        "kind": "kafka",
        "session_timeout_s": 6.0,
        "kafka": {"servers": broker.server, "request_timeout_s": 3.0},
    }
    settings = Settings(**{**dict(prepared), "stream": stream})
    create_topics(settings.stream.cluster(), load_topics())
    with closing(open_log(settings)) as log:
        log.append(IMAGES, [NewMessage(f"i{n}", png(n)) for n in range(20)])
        log.append(IMAGES, [NewMessage("poison", b"no image")])
        worker = build_worker(settings, Observer(), threading.Event())
        worker.restore()
        ticks = [worker.run_once(float(turn)) for turn in range(12)]
        assert sum(tick.received for tick in ticks) == 21
        assert sum(tick.dead_letters for tick in ticks) == 1
        assert [tick.round.outcome for tick in ticks if tick.round] == ["promoted"]
        end(worker)
        again = build_worker(settings, Observer(), threading.Event())
        again.restore()
        assert sum(again.run_once(100.0 + turn).received for turn in range(3)) < 21
        end(again)
