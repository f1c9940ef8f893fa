"""What worker and services know of candidates on trial, in the shared state; it decides nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pydantic import ValidationError

from adaptsvc.errors import StateError
from adaptsvc.shadow_record import Figures, Report, ShadowState, ShadowSummary
from adaptsvc.trust.shadow import Tally
from adaptsvc.versions.board import Board
from adaptsvc.versions.reports import Reports

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShadowDesk:
    """Reads and writes it.

    Args:
        board: where the worker says which candidate is tried.
        reports: where each service process says what it found.
    """

    board: Board
    reports: Reports

    def read(self) -> ShadowState:
        """What the worker says.

        Raises:
            StateError: it cannot be asked, or said something else.
        """
        data = self.board.read()
        try:
            return ShadowState() if data is None else ShadowState.model_validate_json(data)
        except ValidationError as exc:
            raise StateError(
                f"what is known of candidates cannot be read: it begins with {data!r:.60}; run service and "
                "worker of one version, the worker then writes it again"
            ) from exc

    def write(self, state: ShadowState) -> None:
        """Say it; see `Board.write`."""
        self.board.write(state.model_dump_json().encode())

    def tell(self, name: str, report: Report) -> None:
        """One process's word; see `Reports.write`."""
        self.reports.write(name, report.model_dump_json().encode())

    def found(self, version: int) -> tuple[Tally, str]:
        """What all processes found of a candidate, and why one of them cannot try it.

        Raises:
            StateError: they cannot be asked.
        """
        tally, problem = Tally(), ""
        for name, data in self.reports.read().items():
            try:
                report = Report.model_validate_json(data)
            except ValidationError as exc:
                log.warning("the report of process %s is left out: %s", name, exc)
                continue
            if report.version == version:  # else it was late, of a candidate before
                tally, problem = tally + report.tally, problem or report.problem
        return tally, problem

    def summary(self) -> ShadowSummary:
        """All of it.

        Raises:
            StateError: as above.
        """
        state = self.read()
        figures = None if state.trial is None else Figures.of(self.found(state.trial.version)[0])
        return ShadowSummary(**dict(state), figures=figures)
