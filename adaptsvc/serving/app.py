"""The HTTP interface under /v1, as an ASGI application over a `Live`; it knows nothing of BentoML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from adaptsvc.serving.answers import Classifier, embed, items_of
from adaptsvc.serving.lane import Lane
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
CLASSIFY, EMBED = "/v1/classify", "/v1/embed"
TOP_K, MOST_TOP_K = 5, 1000
TOP_K_PARAMETER = {
    "name": "top_k",
    "in": "query",
    "description": "How many classes to name for each image, the most probable ones.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_TOP_K, "default": TOP_K},
}
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
CLASSIFY_BODY = {**IMAGES_BODY, "parameters": [TOP_K_PARAMETER, *IMAGES_BODY["parameters"]]}


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

    @app.post(CLASSIFY, openapi_extra=CLASSIFY_BODY, responses=ERRORS, response_model=Classified)
    async def classify(request: Request) -> Response:
        """Classify one image (raw body, `X-Image-Id`) or several (a form or JSON, `images`)."""
        serving(live)
        top_k = _top_k(request)
        uploads = await read_images(request, limits)
        finish = classifier.finish(uploads, top_k)
        return _json(await desk.answer(request, items_of(uploads), finish, Classified))

    @app.post(EMBED, openapi_extra=IMAGES_BODY, responses=ERRORS, response_model=Embedded)
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

    images = [r for r in app.routes if isinstance(r, APIRoute) and r.path in (CLASSIFY, EMBED)]
    app.add_middleware(Lane, routes=images)
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


def _top_k(request: Request) -> int:
    """How many classes the request asks for."""
    asked = request.query_params.get("top_k", str(TOP_K))
    if len(asked) < 5 and asked.isascii() and asked.isdecimal() and 1 <= int(asked) <= MOST_TOP_K:
        return int(asked)
    message = f"got {asked[:40]!r}; expected a whole number from 1 to {MOST_TOP_K}"
    raise RequestError(422, "top_k", message)


def _json(answer: BaseModel) -> Response:
    """A body that is valid by construction; FastAPI would check it again."""
    return Response(answer.model_dump_json(), media_type="application/json")
