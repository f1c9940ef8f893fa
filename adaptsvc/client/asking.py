"""The two clients, which send the same calls; this is where waiting is done.

What may be sent again is sent again: after 429 and 503 when the service says, after a connection that failed
a little later each time. Answering changes nothing in the service, and what an administrator asks for is the
same asked twice, so a request that may have been answered is safe to repeat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from adaptsvc.client import calls
from adaptsvc.client.answers import Classified, Embedded, Serving, Source
from adaptsvc.client.calls import Call, Options, delay_s
from adaptsvc.client.reports import (
    Activated,
    Classes,
    Difference,
    Drift,
    History,
    VersionDetail,
)
from adaptsvc.errors import ServiceError

TIMEOUT_HEADER = "X-Request-Timeout"
AGAIN = (429, 503)
ANSWER_MARGIN_S = 5.0  # the service's own deadline comes first
POLL_S, CLASSES_WAIT_S = 0.2, 120.0
DEFAULTS = Options()
Kind = TypeVar("Kind")


class _Asking:
    """How requests are sent, and when again: what both clients share."""

    def __init__(self, url: str, options: Options) -> None:
        self._options = options
        self._http: dict[str, Any] = {
            "base_url": url,
            "headers": {TIMEOUT_HEADER: f"{options.timeout_s:g}", **options.headers},
            "timeout": options.timeout_s + ANSWER_MARGIN_S,
        }

    def _delay(self, attempt: int, response: httpx.Response | None) -> float | None:
        """How long to wait before sending a request again; None where its answer stands."""
        if attempt >= self._options.retries:
            return None
        if response is None:
            return delay_s(attempt, None)
        if response.status_code in AGAIN:
            return delay_s(attempt, response.headers.get("retry-after"))
        return None


class Client(_Asking):
    """Asks a service, and waits. Thread-safe.

    Args:
        url: of the service, as ``http://localhost:3000``.
        options: how to ask.
        transport: another way to the service, for tests.

    Raises:
        ServiceError: every method, where the service answers with an error or not at all.
    """

    def __init__(
        self, url: str, options: Options = DEFAULTS, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        super().__init__(url, options)
        self._client = httpx.Client(**self._http, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: object, _where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def classify(self, *images: Source, top_k: int = 5) -> Classified:
        """Classify images, 64 at most."""
        return self._ask(calls.classify(images, top_k))

    def embed(self, *images: Source) -> Embedded:
        """Unit embeddings of images, 64 at most."""
        return self._ask(calls.embed(images))

    def feedback(self, image_id: str, label: str) -> None:
        """Say what an image of the stream shows."""
        self._ask(calls.feedback(image_id, label))

    def model(self) -> Serving:
        """What serves now."""
        return self._ask(calls.model())

    def classes(self) -> Classes:
        """Which classes answer now, and what became of the last request for others."""
        return self._ask(calls.classes())

    def set_classes(self, names: Sequence[str], *, prompt: str | None = None) -> Classes:
        """Have the worker make a version for other classes; what answers until it is there.

        Args:
            names: at least two; answers have their order.
            prompt: template with ``{}``; by default what serves has.
        """
        return self._ask(calls.set_classes(names, prompt))

    def wait_for_classes(
        self, names: Sequence[str], *, prompt: str | None = None, timeout_s: float = CLASSES_WAIT_S
    ) -> Classes:
        """What answers once the classes do that were asked for; another process may be a poll behind.

        Args:
            names: as they were given to `set_classes`.
            prompt: the same.
            timeout_s: longest wait.

        Raises:
            ServiceError: the worker refused them, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while not calls.answering(found := self.classes(), names, prompt):
            if time.monotonic() > deadline:
                raise calls.still_waiting(found, timeout_s)
            time.sleep(POLL_S)
        return found

    def versions(self, limit: int = 100, before: int | None = None) -> History:
        """The newest versions, before that one if it is said, with why candidates were refused."""
        return self._ask(calls.versions(limit, before))

    def version(self, id: int) -> VersionDetail:
        """One version with its whole manifest; the service verifies every file of it."""
        return self._ask(calls.version(id))

    def diff(self, id: int, against: int | None = None) -> Difference:
        """What a version has that another, by default its parent, has not."""
        return self._ask(calls.diff(id, against))

    def activate(self, id: int, *, hold: bool = False) -> Activated:
        """Make a version serve: a rollback. With `hold` nothing is promoted over it meanwhile."""
        return self._ask(calls.activate(id, hold=hold))

    def pin(self, id: int) -> None:
        """Keep a version whatever its age."""
        self._ask(calls.pin(id))

    def unpin(self, id: int) -> None:
        """Let a version go when it is old."""
        self._ask(calls.unpin(id))

    def drift(self) -> Drift:
        """Whether the stream still is what the serving version learned from."""
        return self._ask(calls.drift())

    def _ask(self, call: Call[Kind]) -> Kind:
        attempt = 0
        while True:
            failure: httpx.TransportError | None = None
            response: httpx.Response | None = None
            try:
                response = self._client.request(call.method, call.path, **call.parts)
            except httpx.TransportError as exc:
                failure = exc
            if (delay := self._delay(attempt, response)) is None:
                return call.read(_body(response, failure))
            time.sleep(delay)
            attempt += 1


class AsyncClient(_Asking):
    """Asks a service from asyncio; otherwise as `Client`, method by method.

    Args:
        url: of the service.
        options: how to ask.
        transport: another way to the service, for tests.
    """

    def __init__(
        self,
        url: str,
        options: Options = DEFAULTS,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, options)
        self._client = httpx.AsyncClient(**self._http, transport=transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _exc: object, _where: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def classify(self, *images: Source, top_k: int = 5) -> Classified:
        """Classify images, 64 at most."""
        return await self._ask(calls.classify(images, top_k))

    async def embed(self, *images: Source) -> Embedded:
        """Unit embeddings of images, 64 at most."""
        return await self._ask(calls.embed(images))

    async def feedback(self, image_id: str, label: str) -> None:
        """Say what an image of the stream shows."""
        await self._ask(calls.feedback(image_id, label))

    async def model(self) -> Serving:
        """What serves now."""
        return await self._ask(calls.model())

    async def classes(self) -> Classes:
        """Which classes answer now, and what became of the last request for others."""
        return await self._ask(calls.classes())

    async def set_classes(self, names: Sequence[str], *, prompt: str | None = None) -> Classes:
        """Have the worker make a version for other classes; as `Client.set_classes`."""
        return await self._ask(calls.set_classes(names, prompt))

    async def wait_for_classes(
        self, names: Sequence[str], *, prompt: str | None = None, timeout_s: float = CLASSES_WAIT_S
    ) -> Classes:
        """What answers once the classes do that were asked for; as `Client.wait_for_classes`."""
        deadline = time.monotonic() + timeout_s
        while not calls.answering(found := await self.classes(), names, prompt):
            if time.monotonic() > deadline:
                raise calls.still_waiting(found, timeout_s)
            await asyncio.sleep(POLL_S)
        return found

    async def versions(self, limit: int = 100, before: int | None = None) -> History:
        """The newest versions, before that one if it is said, with why candidates were refused."""
        return await self._ask(calls.versions(limit, before))

    async def version(self, id: int) -> VersionDetail:
        """One version with its whole manifest; the service verifies every file of it."""
        return await self._ask(calls.version(id))

    async def diff(self, id: int, against: int | None = None) -> Difference:
        """What a version has that another, by default its parent, has not."""
        return await self._ask(calls.diff(id, against))

    async def activate(self, id: int, *, hold: bool = False) -> Activated:
        """Make a version serve: a rollback. With `hold` nothing is promoted over it meanwhile."""
        return await self._ask(calls.activate(id, hold=hold))

    async def pin(self, id: int) -> None:
        """Keep a version whatever its age."""
        await self._ask(calls.pin(id))

    async def unpin(self, id: int) -> None:
        """Let a version go when it is old."""
        await self._ask(calls.unpin(id))

    async def drift(self) -> Drift:
        """Whether the stream still is what the serving version learned from."""
        return await self._ask(calls.drift())

    async def _ask(self, call: Call[Kind]) -> Kind:
        attempt = 0
        while True:
            failure: httpx.TransportError | None = None
            response: httpx.Response | None = None
            try:
                response = await self._client.request(call.method, call.path, **call.parts)
            except httpx.TransportError as exc:
                failure = exc
            if (delay := self._delay(attempt, response)) is None:
                return call.read(_body(response, failure))
            await asyncio.sleep(delay)
            attempt += 1


def _body(response: httpx.Response | None, failure: httpx.TransportError | None) -> Any:
    if response is None:
        raise ServiceError(f"the service gave no answer: {failure}") from failure
    try:
        body = response.json()
    except ValueError as exc:
        raise ServiceError(
            f"got status {response.status_code} and no JSON; is this an adaptsvc service?",
            status=response.status_code,
        ) from exc
    if response.is_success:
        return body
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {"message": str(body)}
    raise ServiceError(
        str(told.get("message")), status=response.status_code, field=str(told.get("field", ""))
    )
