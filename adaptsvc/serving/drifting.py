"""GET /v1/drift, and the gauges of drift; it knows nothing of how drift is found.

The worker sees the stream and writes what it finds to the shared state. Every service process reads it from
there, so that all of them answer, and are scraped, alike.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI

from adaptsvc.drift_summary import DriftSummary, nothing_yet
from adaptsvc.errors import StateError, StateUnavailableError
from adaptsvc.metrics import Observer
from adaptsvc.serving.app import serving
from adaptsvc.serving.live import Live, Waits
from adaptsvc.serving.requests import RequestError
from adaptsvc.serving.schemas import Drift, ErrorBody
from adaptsvc.versions.board import Board

log = logging.getLogger(__name__)


class DriftDesk:
    """What the worker found, as this process knows it.

    Args:
        board: where the worker writes.
        threshold: of every signal, before it has written.
        observer: told of every signal.
    """

    def __init__(self, board: Board, threshold: float, observer: Observer) -> None:
        self._board = board
        self._nothing = nothing_yet(threshold)
        self._observer = observer
        self._told: bytes | None = None
        self._problem = ""

    def summary(self) -> DriftSummary:
        """What the worker wrote last.

        Raises:
            StateError: it cannot be asked, or is no summary.
        """
        data = self._board.read()
        return self._nothing if data is None else DriftSummary.parse(data)

    def poll(self) -> None:
        """Set the gauges when there is something new; what cannot be read now is read the next time."""
        try:
            data = self._board.read()
            if data is None or data == self._told:
                return
            for each in DriftSummary.parse(data).signals:
                self._observer.drifted(each.signal, each.effect or 0.0, each.alarm)
            self._told, self._problem = data, ""
        except StateUnavailableError:
            return  # it has been said and counted
        except StateError as exc:
            if (problem := str(exc)) != self._problem:
                log.warning("the gauges of drift stay as they are: %s", problem)
            self._problem = problem

    def follow(self, stop: Waits, interval_s: float) -> None:
        """Poll until told to stop; runs in a thread of its own."""
        self.poll()
        while not stop.wait(interval_s):
            self.poll()


def add_drift(app: FastAPI, live: Live, desk: DriftDesk) -> None:
    """Add the route to the application.

    Args:
        app: with the error handlers of `adaptsvc.serving.app`.
        live: what serves.
        desk: what the worker found.
    """

    @app.get("/v1/drift", responses={503: {"model": ErrorBody}})
    def drift() -> Drift:
        """Whether the stream still is what the serving version learned from, signal by signal."""
        version = serving(live).manifest.id
        try:
            return Drift(model_version=version, **dict(desk.summary()))
        except StateError as exc:
            raise RequestError(503, "state", str(exc)) from exc
