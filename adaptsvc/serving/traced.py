"""A span for every request to the application, which continues the trace of whoever called.

An ASGI middleware, added only where something is traced; it knows nothing of where spans go. It is behind the
door: what was turned away there has no span, and nobody without a key decides what is traced. A span says
the method, the route and the status, and nothing that was sent.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptsvc.serving.gate import PROBES
from adaptsvc.tracing import TRACEPARENT, Tracer

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "_OTHER"  # of OpenTelemetry's conventions: methods are chosen by whoever asks


class Traced:
    """The middleware.

    Args:
        app: what is behind it.
        tracer: begins the traces.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http" or scope["path"].startswith(PROBES):
            await self._app(scope, receive, send)
            return
        status = 500  # whoever is before us answers so where nothing else was

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        traceparent = Headers(scope=scope).get(TRACEPARENT, "")
        with self._tracer.begin("request", traceparent=traceparent) as span:
            try:
                await self._app(scope, receive, noting)
            finally:
                facts = facts_of(scope, status)
                route = facts.get("http.route", "")
                span.rename(f"{facts['http.request.method']} {route}".rstrip())
                span.describe(facts)
                if status >= 500:  # 4xx are the caller's, by OpenTelemetry's conventions
                    span.fail(str(status))


def facts_of(scope: Scope, status: int) -> dict[str, str | int]:
    """Method, route and status of a request that was answered; no route where its path has none."""
    method = scope["method"] if scope["method"] in METHODS else OTHER
    facts: dict[str, str | int] = {"http.request.method": method}
    if route := getattr(scope.get("route"), "path", ""):
        facts["http.route"] = route
    return {**facts, "http.response.status_code": status}
