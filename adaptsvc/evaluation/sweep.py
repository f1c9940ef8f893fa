"""Cell after cell into a journal, with a progress bar, until done or interrupted.

It knows nothing of what a cell is or how it is measured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adaptsvc.config import Settings
from adaptsvc.evaluation.bench import Bench, Pictures, read_pictures
from adaptsvc.evaluation.data import Entry
from adaptsvc.evaluation.record import Record, Records

CellT = TypeVar("CellT", bound=Hashable)
RecordT = TypeVar("RecordT", bound=Record[Any])
Say: TypeAlias = Callable[[str], None]


class Interrupted(Exception):  # noqa: N818 - a signal, not an error
    """Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Sweep(Generic[CellT, RecordT]):
    """One run.

    Attributes:
        journal: what was measured, now or before.
        console: where progress, warnings and tables go.
        stop: set to end early; what was measured stays in the journal.
    """

    journal: Records[CellT, RecordT]
    console: Console
    stop: threading.Event

    def check(self) -> None:
        """End the run here if it was interrupted.

        Raises:
            Interrupted: it was.
        """
        if self.stop.is_set():
            raise Interrupted

    def load(self, settings: Settings) -> Bench:
        """The model, exported to `settings.home`."""
        with self.console.status("loading the model (the first time it is exported, about 20 s)"):
            return Bench.load(settings)

    def read(self, bench: Bench, entries: Sequence[Entry]) -> Pictures:
        """Decoded files; those left out are named."""
        pictures = read_pictures(bench, entries, between_images=self.check)
        for line in pictures.skipped:
            self.console.print(f"warning: left out {line}", markup=False, highlight=False)
        return pictures

    def results(
        self, cells: Sequence[CellT], measure: Callable[[CellT, Say], RecordT]
    ) -> list[RecordT]:
        """The results of all cells, those measured that the journal has not; none when interrupted.

        Args:
            cells: in the order of measuring.
            measure: a cell and a way to say how far it is, to its result.
        """
        found = self.journal.results
        waiting = [cell for cell in cells if cell not in found]
        if done := len(cells) - len(waiting):
            self.console.print(f"{done} of {len(cells)} cells were measured before")
        try:
            self._measure(waiting, done, measure)
        except Interrupted:
            done = sum(cell in found for cell in cells)
            self.console.print(
                f"interrupted: {done} of {len(cells)} cells are in {self.journal.path}; the same command "
                "goes on from there"
            )
            return []
        return [found[cell] for cell in cells]

    def _measure(
        self, waiting: Sequence[CellT], done: int, measure: Callable[[CellT, Say], RecordT]
    ) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeElapsedColumn(), console=self.console, transient=True
        ) as progress:
            task = progress.add_task("", total=done + len(waiting), completed=done)
            for cell in waiting:
                self.check()
                result = measure(cell, lambda words: progress.update(task, description=words))
                self.journal.append(result)
                progress.advance(task)
