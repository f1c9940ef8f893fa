"""The manifest: what it takes, and that whatever is altered in it is seen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adaptsvc.errors import VersionCorruptError, VersionSchemaError
from adaptsvc.versions.manifest import (
    Calibration,
    Draft,
    Manifest,
    OodRule,
    ReliabilityBin,
    parse,
)
from tests.adaptsvc.versions.examples import HEX, draft

NOW = datetime(2026, 5, 4, 3, 2, 1, 250_000, tzinfo=UTC)
FILES = {"delta.safetensors": HEX, "head.safetensors": HEX[::-1]}


def sealed(**changes: Any) -> Manifest:
    return Manifest.seal(draft(**changes), id=3, created_at=NOW, files=FILES)


TEXT = sealed().model_dump_json(indent=1)


def altered(**changes: Any) -> str:
    return json.dumps({**json.loads(TEXT), **changes})


def test_a_sealed_manifest_is_read_back_equal() -> None:
    manifest = sealed()
    assert parse(manifest.model_dump_json(indent=1), 3) == manifest
    assert Draft(**{name: getattr(manifest, name) for name in Draft.model_fields}) == draft()


@settings(deadline=None)
@given(
    metrics=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    temperature=st.floats(1e-300, 1e300),
    seconds=st.datetimes(timezones=st.just(UTC)),
    names=st.lists(st.text(), min_size=2),
)
def test_any_finite_figures_and_any_text_keep_their_digest(
    metrics: dict[str, float], temperature: float, seconds: datetime, names: list[str]
) -> None:
    calibration = Calibration(temperature=temperature, fitted_on="labels")
    changed = draft(metrics=metrics, classes=tuple(names), calibration=calibration)
    manifest = Manifest.seal(changed, id=0, created_at=seconds, files={})
    assert parse(manifest.model_dump_json(indent=1), 0) == manifest


def test_a_manifest_without_reliability_is_the_one_that_older_software_wrote_and_reads() -> None:
    manifest = sealed()
    written = json.loads(manifest.to_json())
    assert set(written["calibration"]) == {"temperature", "fitted_on"}
    content = {k: v for k, v in written.items() if k not in ("digest", "signature")}
    assert manifest.canonical() == json.dumps(content, sort_keys=True).encode()
    assert parse(json.dumps(written), 3) == manifest


def test_the_digest_covers_the_reliability() -> None:
    bins = (ReliabilityBin(images=3, confidence=0.5, accuracy=1.0),)
    calibration = Calibration(temperature=1.25, fitted_on="labels", reliability=bins)
    text = sealed(calibration=calibration).to_json().decode()
    assert parse(text, 3).calibration.reliability == bins
    with pytest.raises(VersionCorruptError, match="was altered"):
        parse(text.replace('"images": 3', '"images": 4'), 3)


def test_the_digest_covers_every_field_but_itself() -> None:
    manifest = sealed()
    changes: dict[str, Any] = {
        "created_at": NOW.replace(year=2027),
        "id": 4,
        "files": {},
        "seed": 8,
        "parent": None,
        "ood": OodRule(score="msp", threshold=None, fitted_on="window"),
    }
    for name, value in changes.items():
        other = manifest.model_copy(update={name: value})
        assert other.content_digest() != manifest.digest, name
    assert manifest.model_copy(update={"digest": "1" * 64}).content_digest() == manifest.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"classes": ["cat", "dog", "frog"]},
        {"calibration": {"temperature": 0.01, "fitted_on": "label-free"}},
        {"files": {**FILES, "head.safetensors": HEX}},
        {"digest": "0" * 64},
        {"parent": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_valid_but_altered_manifest_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(VersionCorruptError, match="manifest of version 3 was altered: its digest"):
        parse(altered(**changes), 3)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(TEXT.encode()) - 1), byte=st.integers(0, 255))
def test_any_altered_byte_is_refused_or_has_no_meaning(position: int, byte: int) -> None:
    """White space between values may change: what is read is then exactly what was sealed."""
    data = bytearray(TEXT.encode())
    data[position] = byte
    try:
        found = parse(data.decode(), 3)
    except (VersionCorruptError, UnicodeDecodeError):
        return
    assert found == sealed()


@pytest.mark.parametrize("length", range(0, len(TEXT), 7))
def test_a_cut_manifest_is_refused(length: int) -> None:
    with pytest.raises(VersionCorruptError, match="manifest of version 3 is not valid"):
        parse(TEXT[:length], 3)


@pytest.mark.parametrize("schema", [0, 2])
def test_an_older_or_newer_schema_is_refused(schema: int) -> None:
    says = f"of schema {schema}, this software reads 1"
    with pytest.raises(VersionSchemaError, match=says) as raised:
        parse(altered(schema_version=schema), 3)
    assert raised.value.version == 3


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"surprise": 1}, "surprise"),
        ({"method": "magic"}, "method"),
        ({"base": "abc"}, "base"),
        ({"digest": HEX.upper()}, "digest"),
        ({"classes": ["one"]}, "classes"),
        ({"logit_scale": 0}, "logit_scale"),
        ({"calibration": {"temperature": 0, "fitted_on": "labels"}}, "calibration.temperature"),
        ({"id": -1}, "id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_field_is_refused_by_its_name(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(
        VersionCorruptError, match=f"not valid: {where}: .*activate another version"
    ):
        parse(altered(**changes), 3)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "not json", '"' + "x" * 99])
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(VersionCorruptError, match="manifest of version 3 is not valid"):
        parse(text, 3)


def test_the_manifest_of_another_version_is_refused() -> None:
    with pytest.raises(VersionCorruptError, match="folder of version 5 is that of version 3"):
        parse(TEXT, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_cannot_be_drafted(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        draft(metrics={"gain": value})


def test_records_are_frozen_and_take_no_unknown_key() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        sealed().seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="not permitted"):
        draft(surprise=1)
