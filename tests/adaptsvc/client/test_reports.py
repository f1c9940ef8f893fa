"""Claims about what the client reads of classes, versions and drift."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

from adaptsvc import drift_summary, shadow_record
from adaptsvc.client import reports
from adaptsvc.client.reports import Classes, reading
from adaptsvc.errors import ServiceError
from adaptsvc.serving import schemas
from adaptsvc.versions import difference

SAID: dict[str, Any] = {
    "model_version": 3,
    "classes": ["cat", "dog"],
    "prompt": "a {}",
    "request": None,
}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (reports.Activated, schemas.Activated),
        (reports.Candidate, shadow_record.Candidate),
        (reports.Classes, schemas.Classes),
        (reports.ClassesAsked, schemas.ClassesAsked),
        (reports.ClassShare, drift_summary.ClassReport),
        (reports.Difference, difference.Difference),
        (reports.Drift, schemas.Drift),
        (reports.DriftReference, drift_summary.Reference),
        (reports.History, schemas.History),
        (reports.Refused, schemas.RefusedCandidate),
        (reports.Shadow, shadow_record.ShadowSummary),
        (reports.Signal, drift_summary.SignalReport),
        (reports.TensorChange, difference.TensorChange),
        (reports.Trial, shadow_record.Trial),
        (reports.TrialFigures, shadow_record.Figures),
        (reports.Values, difference.Values),
        (reports.Verdict, shadow_record.Verdict),
        (reports.Version, schemas.VersionSummary),
        (reports.VersionDetail, schemas.VersionDetail),
    ],
    ids=lambda each: each.__name__,
)
def test_the_client_has_every_field_that_the_service_says(
    kind: type[Any], said: type[BaseModel]
) -> None:
    answering = {"model_version": "version"}
    expected = {answering.get(name, name) for name in said.model_fields}
    assert {each.name for each in fields(kind)} == expected


def test_what_a_newer_service_says_besides_is_left_out() -> None:
    assert reading(Classes)({**SAID, "mood": "good"}) == Classes(3, ("cat", "dog"), "a {}", None)


def test_an_answer_without_a_field_is_an_error_naming_it() -> None:
    with pytest.raises(ServiceError, match="prompt: Field required") as caught:
        reading(Classes)({key: value for key, value in SAID.items() if key != "prompt"})
    assert caught.value.field == "prompt"
