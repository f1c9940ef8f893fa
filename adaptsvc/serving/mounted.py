"""The application as BentoML mounts it, and the names by which BentoML counts its requests.

BentoML's own metrics have the path as a label, as it was sent. Paths are chosen by whoever asks, key or none:
each new one would be some twenty series that are never let go of. Here they are counted by route.
"""

from __future__ import annotations

from typing import Any, cast

from bentoml._internal.server.http import instruments
from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

BENTOML = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
OTHER = "other"
SENT = "adaptsvc.path"  # of a scope: the path as it was sent


class Mounted:
    """The application; what it leads to is known when a service starts."""

    app: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        assert self.app is not None, "BentoML asks nothing before the service is made"
        await self.app(scope, receive, send)

    def route_of(self, path: str) -> str:
        """The route of a path, ``/v1/versions/{id}`` for ``/v1/versions/3``; OTHER if there is none."""
        if path in BENTOML:
            return path
        routes = () if self.app is None else self.app.routes
        found = (r.path for r in routes if isinstance(r, Route) and r.path_regex.match(path))
        return next(found, OTHER)


mounted = Mounted()


class CountedByRoute(instruments.RunnerTrafficMetricsMiddleware):
    """BentoML's counting, told the route instead of the path; what is behind it gets the path."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        async def behind(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "path": scope[SENT]} if SENT in scope else scope, receive, send)

        super().__init__(behind, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if path := scope.get("path"):
            scope = {**scope, "path": mounted.route_of(path), SENT: path}
        await super().__call__(scope, receive, send)


def count_by_route() -> None:
    """Have BentoML count so, in applications that it makes from now on."""
    cast(Any, instruments).RunnerTrafficMetricsMiddleware = CountedByRoute
