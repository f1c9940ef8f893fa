"""POST /v1/feedback: what people say that an image shows, to the topic of labels.

It knows nothing of what becomes of a label. An answer of 202 is given only after the stream has stored it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request

from adaptsvc import tracing
from adaptsvc.errors import ImageIdError
from adaptsvc.serving.app import Computing, serving
from adaptsvc.serving.live import Live
from adaptsvc.serving.problems import ERRORS
from adaptsvc.serving.requests import RequestError, read_json
from adaptsvc.serving.schemas import Feedback
from adaptsvc.source import LABEL_HEADER, check_id
from adaptsvc.streaming import LABELS
from streams.errors import InvalidMessageError, LogBusyError, LogFullError, StreamError
from streams.log import Log
from streams.message import NewMessage

log = logging.getLogger(__name__)
BODY_BYTES = 16 * 1024  # an image id of a kilobyte, escaped, and a class name
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Feedback.model_json_schema()}},
    }
}


class LabelDesk:
    """Takes labels and sends them to the stream, which is opened by the first of them.

    Args:
        open_log: opens the stream, in the process and thread that use it.
    """

    def __init__(self, open_log: Callable[[], Log]) -> None:
        self._open_log = open_log
        self._log: Log | None = None
        self._lock = threading.Lock()

    def take(self, said: Feedback, classes: Sequence[str]) -> Feedback:
        """Store one label; it is durable when this returns.

        Raises:
            RequestError: 422 the class or the image id is none, 503 the stream did not take it.
        """
        if said.label not in classes:
            allowed = ", ".join(classes)
            raise RequestError(422, "label", f"got {said.label[:100]!r}; expected one of {allowed}")
        try:
            check_id(said.image_id)
            headers = {LABEL_HEADER: said.label.encode(), "source": b"feedback"}
            headers |= tracing.headers()
            self._append(NewMessage(said.image_id, b"", headers))
        except (ImageIdError, InvalidMessageError, UnicodeEncodeError) as exc:
            raise RequestError(422, "image_id", str(exc)) from exc
        return said

    def close(self) -> None:
        """Let go of the stream; harmless twice."""
        with self._lock:
            if self._log is not None:
                self._log.close()
            self._log = None

    def _append(self, message: NewMessage) -> None:
        try:
            self._opened().append(LABELS, [message])
        except LogBusyError as exc:
            raise _refused(
                "is busy and did not take the label; send it again shortly", exc
            ) from exc
        except LogFullError as exc:
            reason = "is full and did not take the label; free disk space, then send it again"
            raise _refused(reason, exc) from exc
        except InvalidMessageError:
            raise
        except (StreamError, OSError) as exc:
            self.close()  # whatever it was, the next label has a stream opened anew
            reason = (
                "failed, and may have the label or not; send it again: said twice it counts once"
            )
            raise _refused(reason, exc) from exc

    def _opened(self) -> Log:
        with self._lock:
            if self._log is None:
                self._log = self._open_log()
            return self._log


def add_feedback(app: FastAPI, live: Live, desk: LabelDesk, computing: Computing) -> None:
    """Add the route to the application.

    Args:
        app: with the error handlers of `adaptsvc.serving.app`.
        live: whose classes are allowed.
        desk: takes the labels.
        computing: bounds how many are taken at once.
    """

    @app.post("/v1/feedback", status_code=202, openapi_extra=BODY, responses=ERRORS)
    async def feedback(request: Request) -> Feedback:
        """Say what an image shows, by the id it was sent to the stream with; the worker learns from it."""
        said = await read_json(request, Feedback, max_bytes=BODY_BYTES)
        classes = serving(live).manifest.classes
        return await computing.run(lambda: desk.take(said, classes))


def _refused(reason: str, exc: Exception) -> RequestError:
    log.warning("a label was not taken: %s", exc)
    return RequestError(503, "stream", f"the stream {reason}")
