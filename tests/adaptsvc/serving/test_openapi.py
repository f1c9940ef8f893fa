"""Claims about the OpenAPI document: requests made up from it get answers that are in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import (
    CheckFunction,
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.result import Ok

from adaptsvc.config import Settings
from adaptsvc.serving.app import Computing
from adaptsvc.serving.feedback import LabelDesk, add_feedback
from streams.log import MemoryLog
from streams.topics import load_topics
from tests.adaptsvc.serving.bench import Stand

pytestmark = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
EXAMPLES = 12
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = {
    ("GET", "/v1/classes"),
    ("GET", "/v1/drift"),
    ("GET", "/v1/model"),
    ("GET", "/v1/versions"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/{name}"),
    ("GET", "/v2/models/{name}/ready"),
    ("POST", "/v1/classify"),
    ("POST", "/v1/embed"),
    ("POST", "/v1/feedback"),
    ("POST", "/v2/models/{name}/infer"),
    ("PUT", "/v1/classes"),
}


@pytest.fixture
def schema(prepared: Settings) -> Iterator[schemathesis.BaseSchema]:
    stand = Stand(prepared)
    stand.live.poll()
    stand.engine.start()
    app = stand.app()
    desk = LabelDesk(lambda: MemoryLog(load_topics()))
    add_feedback(app, stand.live, desk, Computing(1, 8))
    yield schemathesis.openapi.from_asgi("/v1/openapi.json", app)
    stand.engine.close(1)


def test_made_up_requests_to_every_operation_get_answers_of_the_document(
    schema: schemathesis.BaseSchema,
) -> None:
    seen = set()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        seen.add((operation.method.upper(), operation.path))

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(checks=CHECKS)

        check()
    assert seen >= OPERATIONS
