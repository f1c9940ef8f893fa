"""/v1/classes: which classes answer now, and asking for others; it knows nothing of how those are made.

The worker makes a version for them. Every answer names one version, and has the classes of that one.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from adaptsvc.errors import VersionCorruptError
from adaptsvc.serving.app import serving
from adaptsvc.serving.door import Door
from adaptsvc.serving.live import Live
from adaptsvc.serving.problems import documented
from adaptsvc.serving.requests import read_json
from adaptsvc.serving.schemas import Classes, ClassesAsked, ErrorBody, inlined
from adaptsvc.serving.versioning import told
from adaptsvc.versions.task_desk import TaskDesk
from adaptsvc.versions.tasks import Wanted

log = logging.getLogger(__name__)
PATH = "/v1/classes"
BODY_BYTES = 16 * 2**20  # ten thousand names of two hundred characters, escaped
NOTHING_TO_DO, ACCEPTED = 200, 202
BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": inlined(Wanted)}}}
}


def add_classes(app: FastAPI, live: Live, desk: TaskDesk, door: Door) -> None:
    """Add the routes to the application.

    Args:
        app: with the error handlers of `adaptsvc.serving.app`.
        live: what answers.
        desk: where people ask.
        door: knows who asks.
    """

    def answer() -> Classes:
        manifest = serving(live).manifest
        with told():
            try:
                asked = desk.asked()
            except VersionCorruptError as exc:
                log.warning("%s", exc)
                return Classes.of(manifest, None)
        return Classes.of(manifest, ClassesAsked.of(asked))

    @app.get(PATH, responses=documented(ErrorBody, (503,)))
    def classes() -> Classes:
        """The classes of the version that answers now, and what became of the last request for others."""
        return answer()

    @app.put(
        PATH,
        status_code=ACCEPTED,
        openapi_extra=BODY,
        responses={
            NOTHING_TO_DO: {"model": Classes, "description": "These classes serve already."},
            **documented(ErrorBody, (400, 401, 403, 404, 408, 409, 413, 415, 422, 503)),
        },
    )
    async def replace(request: Request, response: Response) -> Classes:
        """Have the worker make a version for these classes; it answers as soon as it is made."""
        caller = door.require_admin(request.scope)
        wanted = await read_json(request, Wanted, max_bytes=BODY_BYTES)

        def ask() -> tuple[bool, Classes]:
            serving(live)
            with told():
                is_new = desk.ask(wanted)
            return is_new, answer()

        is_new, body = await run_in_threadpool(ask)
        response.status_code = ACCEPTED if is_new else NOTHING_TO_DO
        if is_new:
            response.headers["Location"] = PATH
            log.warning("key %s: asked for %d classes", caller.name, len(wanted.classes))
        return body
