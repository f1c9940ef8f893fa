"""What every request passes before the application: so many at once, in time, and the way out.

An ASGI middleware; it knows nothing of images. BentoML lets nobody set uvicorn's `limit_concurrency`, and its
own `max_concurrency` answers without Retry-After. Heads that come too slowly are not seen here but by
`connections`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptsvc.metrics import Observer
from adaptsvc.serving.problems import in_form_of, problem
from adaptsvc.serving.requests import RequestError

PROBES = "/v2/health/"  # a crowd is not death either


@dataclass(frozen=True, slots=True)
class GateLimits:
    """How many requests may be open, how long a body may take to come, and by when a request is over."""

    open_requests: int
    body_s: float
    answer_s: float


class Gate:
    """The middleware.

    Args:
        app: what is behind it.
        limits: of this process.
        observer: told of requests turned away.
        leaving: whether the process is about to end; clients are then asked to close their connections.
    """

    def __init__(
        self, app: ASGIApp, limits: GateLimits, observer: Observer, leaving: Callable[[], bool]
    ) -> None:
        self._app = app
        self._limits = limits
        self._observer = observer
        self._leaving = leaving
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http" or scope["path"].startswith(PROBES):
            await self._app(scope, receive, send)
            return
        if self._open >= self._limits.open_requests:
            self._observer.shed("connections")
            message = f"{self._open} requests are open already; try again in 1 s"
            answer = problem(RequestError(429, "connections", message))
            await in_form_of(scope["path"], answer)(scope, receive, send)
            return
        self._open += 1
        try:
            await self._in_time(scope, receive, send)
        finally:
            self._open -= 1

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, cut off at the end of its time; whatever waits has a shorter one of its own."""
        begun = False

        async def closing(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start" and self._leaving():
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        try:
            async with asyncio.timeout(self._limits.answer_s) as patience:
                await self._app(scope, self._timely(receive), closing)
        except TimeoutError:
            if begun or not patience.expired():
                raise
            self._observer.shed("deadline")
            message = f"no answer within {self._limits.answer_s:g} s; try again shortly"
            answer = problem(RequestError(503, "service", message))
            await in_form_of(scope["path"], answer)(scope, receive, send)

    def _timely(self, receive: Receive) -> Receive:
        """The body's messages, refused when they take too long; what follows them is waited for."""
        deadline = asyncio.get_running_loop().time() + self._limits.body_s
        complete = False

        async def timely() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as exc:
                self._observer.shed("slow_body")
                limit_s = self._limits.body_s
                raise RequestError(
                    408, "body", f"the body did not come within {limit_s:g} s; send less, or faster"
                ) from exc
            complete = not message.get("more_body", False)
            return message

        return timely
