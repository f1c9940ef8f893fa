"""Waiting for an answer: not longer than the request allows, and not for a client that went away.

It knows nothing of images or models; it asks the engine and maps what comes back to HTTP.

A request that cannot be answered in time is a 429 with Retry-After, as one that finds the queue full: the
load is the cause, and it may be sent again. 408 would say that the request itself came too slowly, and many
clients repeat that at once; 504 would tell proxies that this backend is broken.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from starlette.requests import Request

from adaptsvc.errors import AdaptsvcError
from adaptsvc.metrics import Observer
from adaptsvc.serving.batching import retry_after_s
from adaptsvc.serving.engine import Engine, FullError
from adaptsvc.serving.jobs import Finish, Item
from adaptsvc.serving.requests import CLIENT_CLOSED_REQUEST, RequestError

TIMEOUT_HEADER = "X-Request-Timeout"
TIMEOUT_PARAMETER = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "description": "Seconds that an answer is worth waiting for; after them, 429.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
Answer = TypeVar("Answer")


class Desk:
    """Takes requests to the engine.

    Args:
        engine: computes.
        deadline_s: longest a request waits for its answer; it may ask for less.
        observer: told of requests that get none.
        noted: told how long each request waited, infinity where it was turned away.
    """

    def __init__(
        self,
        engine: Engine,
        deadline_s: float,
        *,
        observer: Observer,
        noted: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._engine = engine
        self._deadline_s = deadline_s
        self._observer = observer
        self._noted = noted

    async def answer(
        self, request: Request, items: Sequence[Item], finish: Finish, kind: type[Answer]
    ) -> Answer:
        """The answer for the images of a request, whose body has been read.

        Args:
            request: whose client waits.
            items: its images.
            finish: makes the answer.
            kind: what `finish` gives.

        Raises:
            RequestError: 422 the header, 429 no room or no time, 499 the client went away, 503 inference
                failed.
        """
        deadline_s = self._deadline(request)
        started = time.perf_counter()
        try:
            future = self._engine.submit(items, finish, deadline_s)
        except FullError as exc:
            self._noted(math.inf)
            raise self._full(exc, deadline_s) from exc
        answer = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_gone(request))
        gone.add_done_callback(lambda _gone: answer.cancel())
        try:
            async with asyncio.timeout(deadline_s):
                found = await answer
        except AdaptsvcError as exc:
            raise RequestError(503, "model", f"{exc}; try again shortly") from exc
        except TimeoutError as exc:
            raise self._given_up(False, deadline_s) from exc
        except asyncio.CancelledError as exc:
            if not gone.done():  # this request is cut off from outside
                raise
            raise self._given_up(True, deadline_s) from exc
        finally:
            self._noted(time.perf_counter() - started)
            future.cancel()  # at once; by way of `answer` it would be the loop's next turn
            gone.cancel()
        assert isinstance(found, kind)
        return found

    def _deadline(self, request: Request) -> float:
        """Seconds that the request waits at most."""
        asked = request.headers.get(TIMEOUT_HEADER)
        if asked is None:
            return self._deadline_s
        try:
            seconds = float(asked)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise RequestError(
                422, TIMEOUT_HEADER, f"got {asked[:40]!r}; expected seconds above 0, as 0.5"
            )
        return min(seconds, self._deadline_s)

    def _full(self, exc: FullError, deadline_s: float) -> RequestError:
        refusal, retry_s = exc.refusal, retry_after_s(exc.refusal.retry_s)
        self._observer.shed(refusal.reason)
        reason = {
            "queue": f"{exc.inside} images are inside already",
            "deadline": f"the answer would come after the {deadline_s:g} s it is waited for",
        }[refusal.reason]
        return _busy(refusal.reason, reason, retry_s)

    def _given_up(self, gone: bool, deadline_s: float) -> RequestError:
        self._observer.shed("gone" if gone else "deadline")
        if gone:
            return RequestError(CLIENT_CLOSED_REQUEST, "connection", "the client went away")
        return _busy("deadline", f"no answer within {deadline_s:g} s", 1)


def _busy(field: str, reason: str, retry_s: int) -> RequestError:
    message = f"{reason}; try again in {retry_s} s"
    return RequestError(429, field, message, retry_after_s=retry_s)


async def _gone(request: Request) -> None:
    """Ends when the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
