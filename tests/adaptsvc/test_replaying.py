"""What a replay sends, and in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptsvc.corruption import Corruption
from adaptsvc.errors import AdaptsvcError, ConfigError
from adaptsvc.images import ImageLimits
from adaptsvc.replaying import BUNDLED, BUNDLED_IMAGES, Choice, Corrupter, gather
from streams.log import MemoryLog
from streams.message import NewMessage
from streams.topics import load_topics

TOPICS, TOPIC = load_topics(), "images.unlabeled"
CONTRAST = Corruption("contrast", 2, seed=3)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(TOPICS)


@pytest.fixture
def folder(tmp_path: Path, png: Callable[..., bytes]) -> Path:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def keys(choice: Choice, log: MemoryLog) -> list[str]:
    return [message.key for message in gather(choice, log, TOPICS).messages]


def test_a_folder_goes_in_the_order_of_its_names(folder: Path, log: MemoryLog) -> None:
    assert keys(Choice(str(folder)), log) == [f"{number}.png" for number in range(8)]


@pytest.mark.parametrize("source", ["folder", TOPIC, BUNDLED])
def test_shuffled_is_another_order_of_the_same_images_by_the_seed(
    source: str, folder: Path, log: MemoryLog
) -> None:
    log.append(TOPIC, [NewMessage(f"k{n}", b"x") for n in range(30)])
    name = str(folder) if source == "folder" else source
    plain = keys(Choice(name), log)
    one, same, other = (keys(Choice(name, shuffle=True, seed=s), log) for s in (1, 1, 2))
    assert sorted(one) == sorted(plain)
    assert one == same
    assert len({tuple(order) for order in (plain, one, other)}) == 3


def test_a_limit_is_kept_and_counted(folder: Path, log: MemoryLog) -> None:
    outgoing = gather(Choice(str(folder), limit=3), log, TOPICS)
    assert outgoing.count == len(list(outgoing.messages)) == 3
    assert gather(Choice(str(folder), limit=99), log, TOPICS).count == 8


def test_the_bundled_data_set_is_named_by_its_contents(log: MemoryLog) -> None:
    outgoing = gather(Choice(BUNDLED), log, TOPICS)
    messages = list(outgoing.messages)
    assert outgoing.origin == "data set"
    assert outgoing.count == len(messages) == BUNDLED_IMAGES
    assert len({m.key for m in messages}) > 0.95 * BUNDLED_IMAGES  # some clothes are alike
    assert messages[0].key == hashlib.sha256(messages[0].value).hexdigest()


def test_of_a_topic_only_the_range_is_sent(log: MemoryLog) -> None:
    positions = log.append(TOPIC, [NewMessage(f"k{n}", b"x") for n in range(30)])
    wanted = [f"k{n}" for n, p in enumerate(positions) if p.partition.partition == 1][2:4]
    assert keys(Choice(TOPIC, offsets="1/2:4"), log) == wanted


@pytest.mark.parametrize(
    ("source", "offsets", "says"),
    [
        ("nowhere", "", "expected a folder that exists"),
        (BUNDLED, "1:2", "'clothes' is a data set"),
        (TOPIC, "1-2", "for example 100:200"),
        (TOPIC, "9/:", "unknown topic"),
    ],
)
def test_wrong_use_is_told_apart_from_failed_work(
    log: MemoryLog, source: str, offsets: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        gather(Choice(source, offsets), log, TOPICS)


def test_nothing_to_send_is_an_error(tmp_path: Path, log: MemoryLog) -> None:
    with pytest.raises(AdaptsvcError, match="holds no image files"):
        gather(Choice(str(tmp_path)), log, TOPICS)
    with pytest.raises(AdaptsvcError, match="holds no messages"):
        gather(Choice(TOPIC), log, TOPICS)


def test_a_corrupted_message_keeps_its_key_and_headers_and_says_what_was_done(
    png: Callable[..., bytes],
) -> None:
    headers = {"content-type": b"image/jpeg", "source": b"camera"}
    message = NewMessage("a", png(0), headers)
    (worse,) = Corrupter(CONTRAST, ImageLimits()).corrupted([message])
    assert worse.key == "a"
    assert worse.value != message.value
    assert worse.headers == {
        "content-type": b"image/png",
        "source": b"camera",
        "corruption": b"contrast/2/3",
    }


def test_a_label_without_an_image_goes_through_as_it_is() -> None:
    label = NewMessage("a", b"", {"label": b"cat"})
    assert list(Corrupter(CONTRAST, ImageLimits()).corrupted([label])) == [label]


def test_what_is_no_image_is_left_out_and_named(png: Callable[..., bytes]) -> None:
    corrupter = Corrupter(CONTRAST, ImageLimits())
    messages = [NewMessage("text", b"text"), NewMessage("picture", png(0))]
    assert [m.key for m in corrupter.corrupted(messages)] == ["picture"]
    assert corrupter.unreadable == ["text"]
