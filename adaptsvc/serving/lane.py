"""The routes that nearly every request asks for, straight to what answers them.

An ASGI middleware before FastAPI's own layers (its stacks of contexts, its routing, its dependencies), which
took a third of the application's time for such a request. Their documentation, and the rest, is FastAPI's.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptsvc.serving.problems import problem
from adaptsvc.serving.requests import RequestError


class Lane:
    """The middleware.

    Args:
        app: what answers everything else.
        routes: whose endpoint takes nothing but the request and gives a response; by POST alone.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # as FastAPI does, for who traces
        try:
            response = await route.endpoint(Request(scope, receive))
        except RequestError as exc:
            response = problem(exc)
        await response(scope, receive, send)
