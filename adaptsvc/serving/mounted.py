"""The application as BentoML mounts it, how requests get there, and the names by which BentoML counts them.

BentoML's own metrics have the path as a label, as it was sent. Paths are chosen by whoever asks, key or none:
each new one would be some twenty series that are never let go of. Here they are counted by route.

What we have a route for is counted by BentoML and then ours at once, where BentoML's layers have nothing to
do but what we do ourselves: they took a third of the event loop's time, and the one for timeouts keeps a
timer of every request until its time is over, answered or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from _bentoml_impl.server.app import ContextMiddleware
from bentoml._internal.server.http import instruments
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from fastapi import FastAPI
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptsvc.serving.door import DoorMiddleware

BENTOML = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
OTHER = "other"
SENT = "adaptsvc.path"  # of a scope: the path as it was sent


class Mounted:
    """The application; what it leads to is known when a service starts.

    Attributes:
        app: the application, for requests that BentoML's door let in.
        entrance: the application behind a door of its own.
    """

    app: FastAPI | None = None
    entrance: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request for which there is no route, neither here nor in BentoML."""
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
        self.is_direct = all(map(_does_nothing, _layers(app)))

        async def behind(scope: Scope, receive: Receive, send: Send) -> None:
            if (path := scope.get(SENT)) is None:  # a start or an end
                await app(scope, receive, send)
                return
            ours = self.is_direct and scope["path"] not in (*BENTOML, OTHER)
            to = mounted.entrance if ours and mounted.entrance else app
            await to({**scope, "path": path}, receive, send)

        super().__init__(behind, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if path := scope.get("path"):
            scope = {**scope, "path": mounted.route_of(path), SENT: path}
        await super().__call__(scope, receive, send)


def count_by_route() -> None:
    """Have BentoML count so, in applications that it makes from now on."""
    cast(Any, instruments).RunnerTrafficMetricsMiddleware = CountedByRoute


def _layers(app: Any) -> Iterator[Any]:
    """What is between BentoML's counting and its routes, but for the door; None where that cannot be seen."""
    while not isinstance(app, Router):
        if not isinstance(app, DoorMiddleware):
            yield app
        if app is None:
            return
        app = getattr(app, "app", None)


def _does_nothing(layer: Any) -> bool:
    """Whether a layer does nothing for us, as an access log, CORS or a limit would, where they are set."""
    if untraced := getattr(layer, "excluded_urls", None):  # OpenTelemetry's
        return bool(untraced.url_disabled(""))
    return isinstance(layer, TimeoutMiddleware | ContextMiddleware | ExceptionMiddleware)
