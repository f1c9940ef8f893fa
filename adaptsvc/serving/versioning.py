"""/v1/versions: the history, and what people change about it; it knows nothing of what answers requests.

Reading needs any key, changing an admin key. Who changed what is in the log, by the name of the key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias

from fastapi import FastAPI, Path, Query, Request

from adaptsvc.errors import DiskFullError, StateError, VersionError, VersionNotFoundError
from adaptsvc.serving.door import Door
from adaptsvc.serving.requests import RequestError
from adaptsvc.serving.schemas import (
    Activated,
    ErrorBody,
    History,
    Pinned,
    RefusedCandidate,
    VersionDetail,
    VersionSummary,
)
from adaptsvc.versions.difference import Difference, difference
from adaptsvc.versions.history import Desk

log = logging.getLogger(__name__)
MOST_VERSIONS = 2**31
Id: TypeAlias = Annotated[int, Path(ge=0, lt=MOST_VERSIONS, description="Of a version.")]


def add_versions(app: FastAPI, desk: Desk, door: Door) -> None:
    """Add the routes to the application.

    Args:
        app: with the error handlers of `adaptsvc.serving.app`.
        desk: the history.
        door: knows who asks.
    """
    _add_readers(app, desk)
    _add_changes(app, desk, door)


def _add_readers(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/versions", responses=_errors(503))
    def versions(
        limit: Annotated[int, Query(ge=1, le=1000, description="Of the newest.")] = 100,
        before: Annotated[int | None, Query(ge=0, description="Only ids under this one.")] = None,
    ) -> History:
        """The history: every version with its figures, and why candidates were refused."""
        with told(unsound=503):
            ids = [each for each in desk.ids() if before is None or each < before]
            current = desk.pointer.read()
            return History(
                serving=current.version,
                held=current.held,
                versions=tuple(VersionSummary.of(entry) for entry in desk.entries(ids[-limit:])),
                before=ids[-limit] if len(ids) > limit else None,
                refused=tuple(RefusedCandidate.of(refusal) for refusal in desk.refusals()),
                shadow=desk.shadow_summary(),
            )

    @app.get("/v1/versions/{id}", responses=_errors(404, 503))
    def version(id: Id) -> VersionDetail:
        """One version with its whole manifest; every file of it is verified."""
        with told(unsound=503):
            return VersionDetail.of(desk.entry(id))

    @app.get("/v1/versions/{id}/diff", responses=_errors(404, 409, 422, 503))
    def diff(
        id: Id,
        against: Annotated[
            int | None, Query(ge=0, lt=MOST_VERSIONS, description="By default the parent.")
        ] = None,
    ) -> Difference:
        """What this version has that another has not."""
        with told():
            after = desk.store.load(id)
            before = after.manifest.parent if against is None else against
            if before is None:
                raise RequestError(
                    422, "against", f"version {id} has no parent; say against which version"
                )
            return difference(desk.store.load(before), after)


def _add_changes(app: FastAPI, desk: Desk, door: Door) -> None:
    @app.post("/v1/versions/{id}/activate", responses=_errors(401, 403, 404, 409, 503))
    def activate(id: Id, request: Request, hold: bool = False) -> Activated:
        """Make a version serve: a rollback. With `hold` nothing is promoted over it meanwhile."""
        caller = door.require_admin(request.scope)
        with told():
            current = desk.activate(id, hold=hold)
        log.warning("key %s: version %d serves%s", caller.name, id, " and is held" if hold else "")
        return Activated(model_version=id, held=current.held, sequence=current.sequence)

    @app.post("/v1/versions/{id}/pin", responses=_errors(401, 403, 404, 409, 503))
    def pin(id: Id, request: Request) -> Pinned:
        """Keep a version whatever its age."""
        caller = door.require_admin(request.scope)
        with told():
            desk.pin(id)
        log.warning("key %s: version %d is pinned", caller.name, id)
        return Pinned(id=id, pinned=True)

    @app.post("/v1/versions/{id}/unpin", responses=_errors(401, 403, 404, 503))
    def unpin(id: Id, request: Request) -> Pinned:
        """Let a version go when it is old."""
        caller = door.require_admin(request.scope)
        with told():
            desk.unpin(id)
        log.warning("key %s: version %d is unpinned", caller.name, id)
        return Pinned(id=id, pinned=False)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in statuses}


@contextmanager
def told(unsound: int = 409) -> Iterator[None]:
    """Errors of versions, of the store and of the shared state, as answers.

    Args:
        unsound: the status where something is damaged. What is only read says of a version that it is, so
            there it is the pointer or the pins.
    """
    try:
        yield
    except VersionNotFoundError as exc:
        raise RequestError(404, "id", str(exc)) from exc
    except VersionError as exc:
        raise RequestError(unsound, "id", f"{exc} (code {exc.code})") from exc
    except StateError as exc:
        raise RequestError(503, "state", str(exc)) from exc
    except (OSError, DiskFullError) as exc:
        log.error("the versions cannot be read or written: %s", exc)
        raise RequestError(503, "store", "the store cannot be read or written") from exc
