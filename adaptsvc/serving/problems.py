"""Errors as HTTP answers: JSON that names the field, what came and what is allowed.

It knows nothing of where they were raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from adaptsvc.serving.requests import RequestError
from adaptsvc.serving.schemas import ErrorBody, Problem

TENSOR_PATHS, KEPT_HEADERS = "/v2", ("retry-after", "connection", "allow")
RETRY_LATER, REST_UNREAD = (429, 503), (408, 413)
RETRY_HEADER = {
    "Retry-After": {
        "description": "Seconds to wait.",
        "schema": {"type": "integer"},
        "required": True,
    }
}
STATUSES = (400, 408, 413, 415, 422, 429, 503)


def documented(model: type[BaseModel], statuses: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    """Error answers as an operation of the OpenAPI document lists them."""
    return {
        status: {"model": model, "headers": RETRY_HEADER if status in RETRY_LATER else {}}
        for status in statuses
    }


ERRORS = documented(ErrorBody, STATUSES)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of an application in this form."""

    def handler(
        respond: Callable[[Any], JSONResponse],
    ) -> Callable[[Request, Any], Awaitable[JSONResponse]]:
        async def handle(request: Request, exc: Any) -> JSONResponse:
            return in_form_of(request.url.path, respond(exc))

        return handle

    app.add_exception_handler(RequestError, handler(problem))
    app.add_exception_handler(RequestValidationError, handler(_validation_error))
    app.add_exception_handler(HTTPException, handler(_http_error))


def problem(exc: RequestError) -> JSONResponse:
    """The answer for a request that cannot be answered otherwise."""
    headers = {"Retry-After": str(exc.retry_after_s)} if exc.status in RETRY_LATER else {}
    if exc.status in REST_UNREAD:  # the rest of the body is not waited for
        headers["Connection"] = "close"
    return _answer(exc.status, exc.field, str(exc), headers)


def in_form_of(path: str, answer: JSONResponse) -> JSONResponse:
    """The answer as the protocol of its path has it: under /v2 an error is one string."""
    if not path.startswith(TENSOR_PATHS):
        return answer
    told = ErrorBody.model_validate_json(bytes(answer.body)).error
    headers = {name: value for name, value in answer.headers.items() if name in KEPT_HEADERS}
    error = {"error": f"{told.field}: {told.message}"}
    return JSONResponse(error, status_code=answer.status_code, headers=headers)


def _validation_error(exc: RequestValidationError) -> JSONResponse:
    first = exc.errors()[0]
    field = str(first["loc"][-1])
    return _answer(422, field, f"got {first.get('input')!r}; {first['msg']}", {})


def _http_error(exc: HTTPException) -> JSONResponse:
    message = f"{exc.detail}; the routes are listed in /v1/openapi.json"
    return _answer(exc.status_code, "path", message, dict(exc.headers or {}))


def _answer(status: int, field: str, message: str, headers: dict[str, str]) -> JSONResponse:
    body = ErrorBody(error=Problem(field=field, message=message))
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)
