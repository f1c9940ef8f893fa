"""The HTTP interface under /v1, as an ASGI application over a `Live`; it knows nothing of BentoML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel

from adaptsvc.serving.answers import Classifier, embed, items_of
from adaptsvc.serving.live import Live
from adaptsvc.serving.predictor import Predictor
from adaptsvc.serving.problems import ERRORS, add_error_handlers
from adaptsvc.serving.requests import ID_HEADER, RequestError, RequestLimits, read_images
from adaptsvc.serving.schemas import (
    Classified,
    Embedded,
    ErrorBody,
    ImagesBody,
    Model,
    inlined,
)
from adaptsvc.serving.waiting import TIMEOUT_PARAMETER, Desk

Work = TypeVar("Work")
TOP_K = 5
IMAGES_BODY: dict[str, Any] = {
    "parameters": [
        TIMEOUT_PARAMETER,
        {
            "name": ID_HEADER,
            "in": "header",
            "description": "The id of the image of a raw body; by default its SHA-256.",
            "schema": {"type": "string"},
        },
    ],
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
                        "images": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        },
                        "image_id": {"type": "array", "items": {"type": "string"}},
                    },
                }
            },
            "application/json": {"schema": inlined(ImagesBody)},
        },
    },
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
    desk: Desk,
    classifier: Classifier,
    limits: RequestLimits,
) -> FastAPI:
    """The application.

    Args:
        live: what serves.
        desk: takes requests to the engine.
        classifier: makes the answers.
        limits: of one request.
    """
    app = FastAPI(title="adaptsvc", version="1", openapi_url="/v1/openapi.json", docs_url=None)
    app.redoc_url = None
    add_error_handlers(app)

    @app.post(
        "/v1/classify", openapi_extra=IMAGES_BODY, responses=ERRORS, response_model=Classified
    )
    async def classify(
        request: Request, top_k: Annotated[int, Query(ge=1, le=1000)] = TOP_K
    ) -> Response:
        """Classify one image (raw body, `X-Image-Id`) or several (a form or JSON, `images`)."""
        serving(live)
        uploads = await read_images(request, limits)
        finish = classifier.finish(uploads, top_k)
        return _json(await desk.answer(request, items_of(uploads), finish, Classified))

    @app.post("/v1/embed", openapi_extra=IMAGES_BODY, responses=ERRORS, response_model=Embedded)
    async def embeddings(request: Request) -> Response:
        """Unit embeddings of one image or several, sent as to /v1/classify."""
        serving(live)
        uploads = await read_images(request, limits)
        return _json(await desk.answer(request, items_of(uploads), embed(uploads), Embedded))

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


def _json(answer: BaseModel) -> Response:
    """A body that is valid by construction; FastAPI would check it again."""
    return Response(answer.model_dump_json(), media_type="application/json")
