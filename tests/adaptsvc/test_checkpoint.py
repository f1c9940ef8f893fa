"""The worker's checkpoint: read back as written, the one before when broken, never half of one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptsvc.checkpoint import (
    NAME,
    PREVIOUS,
    Checkpoint,
    JoinReferences,
    LabelReference,
    SampleReference,
    find,
    load,
    save,
)
from adaptsvc.errors import DiskFullError

NATURAL = st.integers(0, 2**63 - 1)
references = st.builds(
    SampleReference, image_id=st.text(), topic=st.text(), partition=NATURAL, offset=NATURAL
)
TIMES = st.floats(allow_nan=False, allow_infinity=False)
SEEN = st.tuples(st.text(), st.text(), NATURAL, NATURAL, TIMES)
LABELS = st.tuples(st.text(), st.text(), NATURAL, NATURAL, TIMES, st.text())
joins = st.builds(
    JoinReferences,
    seen=st.lists(SEEN, max_size=3).map(tuple),
    joined=st.lists(LABELS, max_size=3).map(tuple),
    waiting=st.lists(LABELS, max_size=3).map(tuple),
    latest_s=TIMES,
)
checkpoints = st.builds(
    Checkpoint,
    join=joins,
    offsets=st.dictionaries(st.text(), NATURAL, max_size=4),
    window=st.lists(references, max_size=4).map(tuple),
    new_images=NATURAL,
    rounds=NATURAL,
)
# As the version wrote it that held offsets back for labels, instead of remembering the labels.
WITHOUT_JOIN = (
    '{"digest": "0aaf6a76d06b5b2b4a0efd492acf67d0cb65500b58524d61baa33e6e344f4815", "content": {"offsets":'
    ' {"images.unlabeled/0": 8, "images.labeled/1": 3}, "window": [{"image_id": "a", "topic":'
    ' "images.unlabeled", "partition": 0, "offset": 7}], "labels": [{"image_id": "b", "topic":'
    ' "images.labeled", "partition": 1, "offset": 2, "label": "cat"}], "new_images": 1, "new_labels": 1,'
    ' "rounds": 4, "patience": {"refusals": 1}}}'
)
BROKEN = {
    "empty": b"",
    "not json": b"rounds: 3",
    "not text": b"\xff\xfe\x00",
    "list": b"[]",
    "no digest": b'{"content": {"rounds": 1}}',
    "other digest": b'{"digest": "0", "content": {"rounds": 1}}',
}


def numbered(rounds: int) -> Checkpoint:
    window = (SampleReference(image_id="żaba", topic="images.unlabeled", partition=0, offset=7),)
    return Checkpoint(offsets={"images.unlabeled/0": 8}, window=window, new_images=1, rounds=rounds)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds two checkpoints, 1 and then 2."""
    for rounds in (1, 2):
        save(tmp_path / "checkpoint", numbered(rounds))
    return tmp_path / "checkpoint"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@settings(deadline=None)
@given(checkpoint=checkpoints)
def test_any_checkpoint_is_read_back_equal(scratch: Path, checkpoint: Checkpoint) -> None:
    save(scratch, checkpoint)
    assert load(scratch) == checkpoint


@pytest.mark.parametrize("exists", [True, False])
def test_where_there_has_been_none_it_is_empty(tmp_path: Path, exists: bool) -> None:
    assert load(tmp_path if exists else tmp_path / "missing") == Checkpoint()


def test_the_last_one_is_read_and_the_one_before_kept(folder: Path) -> None:
    assert load(folder) == numbered(2)
    assert {path.name for path in folder.iterdir()} == {NAME, PREVIOUS}
    (folder / NAME).unlink()
    assert load(folder) == numbered(1)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_one_falls_back_to_the_one_before_and_says_why(
    folder: Path, content: bytes
) -> None:
    (folder / NAME).write_bytes(content)
    found = find(folder)
    assert (found.checkpoint, found.lost) == (numbered(1), False)
    (reason,) = found.refused
    assert str(folder / NAME) in reason


def test_every_cut_falls_back_to_the_one_before(folder: Path) -> None:
    data = (folder / NAME).read_bytes()
    for length in range(len(data)):
        (folder / NAME).write_bytes(data[:length])
        assert load(folder) == numbered(1)


def test_every_flipped_byte_falls_back_to_the_one_before(folder: Path) -> None:
    data = (folder / NAME).read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x01
        (folder / NAME).write_bytes(bytes(flipped))
        assert load(folder) == numbered(1)


def test_both_broken_is_an_empty_one_that_says_why_and_that_something_is_lost(folder: Path) -> None:
    for name in (NAME, PREVIOUS):
        (folder / name).write_bytes(b"{")
    found = find(folder)
    assert (found.checkpoint, found.lost) == (Checkpoint(), True)
    assert [str(folder / NAME) in found.refused[0], str(folder / PREVIOUS) in found.refused[1]] == [
        True,
        True,
    ]


def test_the_only_one_broken_is_not_taken_for_none(tmp_path: Path) -> None:
    save(tmp_path, numbered(1))
    assert not find(tmp_path).lost
    (tmp_path / NAME).write_bytes(b"{")
    assert find(tmp_path).lost
    assert not find(tmp_path / "missing").lost


def test_a_broken_one_never_replaces_the_readable_one_before(folder: Path) -> None:
    (folder / NAME).write_bytes(b"{")
    save(folder, numbered(3))
    (folder / NAME).write_bytes(b"{")
    assert load(folder) == numbered(1)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_failing_write_leaves_a_whole_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    calls = iter(range(1, 100))

    def disk_full(descriptor: int) -> None:
        if next(calls) >= fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(DiskFullError, match="no room for"):
        save(folder, numbered(3))
    assert load(folder) in (numbered(2), numbered(3))
    assert {path.name for path in folder.iterdir()} == {NAME, PREVIOUS}


@pytest.mark.parametrize("values", [{"rounds": -1}, {"new_images": -1}, {"weights": []}])
def test_a_checkpoint_of_another_shape_cannot_be_made(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Checkpoint.model_validate(values)


def test_a_checkpoint_of_the_version_before_is_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(WITHOUT_JOIN)
    label = LabelReference(image_id="b", topic="images.labeled", partition=1, offset=2, label="cat")
    assert load(tmp_path) == Checkpoint(
        offsets={"images.unlabeled/0": 8, "images.labeled/1": 3},
        window=(SampleReference(image_id="a", topic="images.unlabeled", partition=0, offset=7),),
        labels=(label,),
        join=JoinReferences(),
        new_images=1,
        new_labels=1,
        rounds=4,
        patience={"refusals": 1},
    )
    save(tmp_path, load(tmp_path))
    assert load(tmp_path).labels == (label,)


@pytest.mark.parametrize(
    "row", [("a", "t", -1, 0, 0.0), ("a", "t", 0, -1, 0.0), ("a", "t", 0, 0, float("nan"))]
)
def test_a_place_that_cannot_be_is_refused(row: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="seen"):
        JoinReferences.model_validate({"seen": [row]})
