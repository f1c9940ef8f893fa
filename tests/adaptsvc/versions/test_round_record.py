"""The record of a round is whole, compact, and refused when it is not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from adaptsvc.errors import VersionCorruptError
from adaptsvc.versions.round_record import (
    Machine,
    Member,
    Members,
    RoundRecord,
    pack_weights,
    parse_record,
)

MACHINE = Machine(
    cpu="a processor", device="cpu", threads=2, ranks=1, torch="2.14", numpy="2.4", pillow="13.0"
)
MEMBERS = [
    Member("images.unlabeled", 3, 7, 2**32 - 1),
    Member("images.labeled", 0, 0, 5),
    Member("images.unlabeled", 1, 2, 0),
]
WEIGHTS = np.array([1.0, 1 / 3, 1e-7], np.float32)


def of_images() -> RoundRecord:
    return RoundRecord(
        kind="images",
        members=Members.of(MEMBERS),
        weights=pack_weights(WEIGHTS.tolist()),
        machine=MACHINE,
    )


def of_labels() -> RoundRecord:
    return RoundRecord(
        kind="labels", members=Members.of(MEMBERS), targets=(2, 0, 1), machine=MACHINE
    )


@pytest.mark.parametrize("record", [of_images(), of_labels()], ids=["images", "labels"])
def test_a_record_is_read_as_it_was_written(record: RoundRecord) -> None:
    assert parse_record(record.to_bytes(), 1) == record
    assert list(record.members.rows()) == MEMBERS
    assert len(record.members) == 3


def test_sample_weights_keep_every_bit() -> None:
    again = parse_record(of_images().to_bytes(), 1).sample_weights()
    assert again.tobytes() == WEIGHTS.tobytes()
    assert again.dtype == np.float32


def test_a_window_of_512_images_takes_less_than_16_kilobytes() -> None:
    members = [Member("images.unlabeled", k % 4, 100_000 + k, 2**32 - 1 - k) for k in range(512)]
    record = RoundRecord(
        kind="images",
        members=Members.of(members),
        weights=pack_weights([0.5] * 512),
        machine=MACHINE,
    )
    assert len(record.to_bytes()) < 16_384


def altered(record: RoundRecord, **update: Any) -> bytes:
    content = json.loads(record.to_bytes())
    content["members"].update(update.pop("members", {}))
    return json.dumps({**content, **update}).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "JSON"),
        (altered(of_images(), schema_version=2), "schema_version"),
        (altered(of_images(), weights=""), "0 weights or targets for 3 members"),
        (altered(of_labels(), targets=[1]), "1 weights or targets for 3 members"),
        (altered(of_labels(), members={"offset": [1]}), "one length"),
        (altered(of_labels(), members={"topic": [0, 1, 2]}), "not among the topics"),
        (altered(of_images(), surprise=1), "surprise"),
    ],
    ids=["no JSON", "schema", "weights", "targets", "columns", "topic", "key"],
)
def test_a_record_that_is_not_whole_is_refused_naming_the_version(data: bytes, says: str) -> None:
    with pytest.raises(VersionCorruptError, match=says) as caught:
        parse_record(data, 7)
    assert "version 7" in str(caught.value)
