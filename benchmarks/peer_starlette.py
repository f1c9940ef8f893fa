"""The barest service over the same model: Starlette on uvicorn, one image per request, no batching."""

from __future__ import annotations

import os

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.peer_app import PORT, PROCESSES, Classifier


def create() -> Starlette:
    """The application of one process."""
    classifier = Classifier()

    async def classify(request: Request) -> Response:
        data = await request.body()
        return JSONResponse(await run_in_threadpool(classifier.classify, data))

    return Starlette(routes=[Route("/v1/classify", classify, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peer_starlette:create",
        factory=True,
        port=int(os.environ[PORT]),
        workers=int(os.environ[PROCESSES]),
        access_log=False,
        loop="asyncio",
    )
