"""The HTTP interface under /v1, as an ASGI application over a `Live`; it knows nothing of BentoML."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adaptsvc.errors import ImageError, ImageTooLargeError
from adaptsvc.images import ImageLimits, decode
from adaptsvc.metrics import Observer
from adaptsvc.serving.live import Live
from adaptsvc.serving.predictor import Predictor
from adaptsvc.serving.requests import RequestError, RequestLimits, Upload, read_images
from adaptsvc.serving.schemas import Classified, ErrorBody, Model, Problem, Result

Work = TypeVar("Work")
RETRY_AFTER_S = "1"
TOP_K = 5
CLASSIFY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
        },
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 413, 415, 422, 429, 503)
}


class Computing:
    """Runs work in threads, so many at once; refuses when too many wait.

    Args:
        at_once: how many run.
        waiting: how many more may wait.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)
        self._most = at_once + waiting
        self._inside = 0

    async def run(self, work: Callable[[], Work]) -> Work:
        """The work's result.

        Raises:
            RequestError: 429, the queue is full.
        """
        if self._inside >= self._most:
            raise RequestError(
                429,
                "queue",
                f"{self._inside} requests are being answered already; try again shortly",
            )
        self._inside += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._inside -= 1


class Classifier:
    """Encoded images to answers.

    Args:
        live: whose current version answers.
        limits: of one image.
        observer: told of every stage and answer.
        sample: given every answered image, by its id; returns at once and never fails.
    """

    def __init__(
        self,
        live: Live,
        limits: ImageLimits,
        observer: Observer,
        *,
        sample: Callable[[str, bytes], None] = lambda _image_id, _data: None,
    ) -> None:
        self._live = live
        self._limits = limits
        self._observer = observer
        self._sample = sample

    def classify(self, uploads: Sequence[Upload], top_k: int) -> Classified:
        """Answer all of them by one version.

        Raises:
            RequestError: an upload is no image we take, or nothing serves yet.
        """
        predictor = serving(self._live)
        started = time.perf_counter()
        pixels = np.stack([self._decode(upload, predictor) for upload in uploads])
        decoded = time.perf_counter()
        answer = predictor.answer(pixels, top_k)
        self._observer.stage("decode", decoded - started)
        self._observer.stage("infer", time.perf_counter() - decoded)
        self._observer.predicted(answer.predictions)
        ids = [hashlib.sha256(upload.data).hexdigest() for upload in uploads]
        results = tuple(
            Result.of(image_id, prediction)
            for image_id, prediction in zip(ids, answer.predictions, strict=True)
        )
        for image_id, upload in zip(ids, uploads, strict=True):
            self._sample(image_id, upload.data)
        return Classified(model_version=answer.version, results=results)

    def _decode(self, upload: Upload, predictor: Predictor) -> Any:
        try:
            return decode(upload.data, predictor.base.preprocess, self._limits)
        except ImageTooLargeError as exc:
            raise RequestError(413, upload.field, str(exc)) from exc
        except ImageError as exc:
            raise RequestError(400, upload.field, str(exc)) from exc


def serving(live: Live) -> Predictor:
    """The predictor that answers now.

    Raises:
        RequestError: 503, there is none yet.
    """
    if live.current is None:
        raise RequestError(
            503,
            "model",
            live.refusal or "no version has been published yet; start the worker and wait",
        )
    return live.current


def create_app(
    live: Live,
    *,
    classifier: Classifier,
    computing: Computing,
    limits: RequestLimits,
) -> FastAPI:
    """The application.

    Args:
        live: what serves.
        classifier: answers.
        computing: bounds how many answers are computed at once.
        limits: of one request.
    """
    app = FastAPI(title="adaptsvc", version="1", openapi_url="/v1/openapi.json", docs_url=None)
    app.redoc_url = None
    _add_error_handlers(app)

    @app.post("/v1/classify", openapi_extra=CLASSIFY_BODY, responses=ERRORS)
    async def classify(
        request: Request, top_k: Annotated[int, Query(ge=1, le=1000)] = TOP_K
    ) -> Classified:
        """Classify one image (raw body) or several (multipart field `images`)."""
        uploads = await read_images(request, limits)
        return await computing.run(lambda: classifier.classify(uploads, top_k))

    @app.get("/", include_in_schema=False)
    def home() -> dict[str, Any]:
        """The OpenAPI document: what can be asked here."""
        return app.openapi()

    @app.get("/v1/model", responses={503: {"model": ErrorBody}})
    def model() -> Model:
        """What serves now."""
        return describe(live)

    return app


def describe(live: Live) -> Model:
    """What serves now, for people."""
    manifest = serving(live).manifest
    return Model(
        model_version=manifest.id,
        model=manifest.model,
        base=manifest.base,
        method=manifest.method,
        parent=manifest.parent,
        classes=manifest.classes,
        prompt=manifest.prompt,
        logit_scale=manifest.logit_scale,
        calibration=manifest.calibration,
        ood=manifest.ood,
        metrics=manifest.metrics,
        created_at=manifest.created_at,
        ready_since=live.since,
        refused=live.refusal,
        refused_code=live.refusal_code,
    )


def _add_error_handlers(app: FastAPI) -> None:
    def handler(
        respond: Callable[[Any], JSONResponse],
    ) -> Callable[[Request, Any], Awaitable[JSONResponse]]:
        async def handle(_request: Request, exc: Any) -> JSONResponse:
            return respond(exc)

        return handle

    app.add_exception_handler(RequestError, handler(_request_error))
    app.add_exception_handler(RequestValidationError, handler(_validation_error))
    app.add_exception_handler(HTTPException, handler(_http_error))


def _request_error(exc: RequestError) -> JSONResponse:
    retry = {"Retry-After": RETRY_AFTER_S} if exc.status in (429, 503) else {}
    return _problem(exc.status, exc.field, str(exc), headers=retry)


def _validation_error(exc: RequestValidationError) -> JSONResponse:
    first = exc.errors()[0]
    field = str(first["loc"][-1])
    return _problem(422, field, f"got {first.get('input')!r}; {first['msg']}")


def _http_error(exc: HTTPException) -> JSONResponse:
    message = f"{exc.detail}; the routes are listed in /v1/openapi.json"
    return _problem(exc.status_code, "path", message, headers=dict(exc.headers or {}))


def _problem(
    status: int, field: str, message: str, *, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = ErrorBody(error=Problem(field=field, message=message))
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)
