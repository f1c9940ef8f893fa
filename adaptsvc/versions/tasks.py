"""Which classes people ask for while everything runs, and what became of it. It knows nothing of versions.

There is one request at a time, the last one: asking again for what waits already changes nothing, and
asking for something else takes its place. Who asks needs no lease; who answers is the worker, and does.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from adaptsvc.errors import VersionCorruptError
from adaptsvc.sections import check_classes, check_prompt
from adaptsvc.types import Task
from adaptsvc.versions.files import write_atomic

MOST_CLASSES = 10_000
Stage: TypeAlias = Literal["waiting", "done", "refused"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wanted(_Record):
    """Classes as a person gives them; the worker has the last word on whether its text tower takes them."""

    classes: tuple[str, ...] = Field(
        min_length=2, max_length=MOST_CLASSES, description="Each once; answers have their order."
    )
    prompt: str | None = Field(None, description="Template with `{}`; by default what serves has.")

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return check_classes(classes)

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str | None) -> str | None:
        return None if prompt is None else check_prompt(prompt)


class TaskRequest(_Record):
    """What was asked for: its number rises with every new request."""

    id: int = Field(ge=1)
    classes: tuple[str, ...]
    prompt: str
    at: datetime

    @property
    def task(self) -> Task:
        """What it is for."""
        return Task(self.classes, self.prompt)


class TaskOutcome(_Record):
    """What became of a request.

    Attributes:
        request: its number.
        version: the first version for these classes; None where there is none.
        reason: why there is none.
    """

    request: int
    version: int | None = None
    reason: str = ""


class Asked(_Record):
    """All there is to know.

    Attributes:
        request: the last one.
        outcome: of the last one that was answered.
        configured: digest of the classes in the worker's settings when it last looked at them.
    """

    request: TaskRequest | None = None
    outcome: TaskOutcome | None = None
    configured: str = ""

    @property
    def answer(self) -> TaskOutcome | None:
        """What became of the last request; None while it waits."""
        if self.request is None or self.outcome is None:
            return None
        return self.outcome if self.outcome.request == self.request.id else None

    @property
    def waiting(self) -> TaskRequest | None:
        """The request that no worker has answered."""
        return None if self.answer else self.request

    @property
    def stage(self) -> Stage:
        """Of the last request."""
        if self.answer is None:
            return "waiting"
        return "refused" if self.answer.version is None else "done"


class Tasks(Protocol):
    """Where requests are kept."""

    def read(self) -> Asked:
        """The last request and what became of it.

        Raises:
            VersionCorruptError: what is kept cannot be read.
        """
        ...

    def ask(self, task: Task) -> TaskRequest:
        """Ask for classes; the request that waits is given back where it is for the same."""
        ...

    def answer(self, outcome: TaskOutcome) -> None:
        """Say what became of a request.

        Raises:
            LeaseLostError: this writer needs a lease, and does not hold it.
        """
        ...

    def note_configured(self, digest: str) -> None:
        """Remember for which classes a worker was set up; see `answer`."""
        ...


class FileTasks:
    """A small file, atomically replaced; whoever changes it holds a lock beside it.

    Args:
        path: its folder exists.
        fence: raises when this writer may not answer; by default every writer may.
        clock: for the time of a request.
    """

    def __init__(
        self,
        path: Path,
        *,
        fence: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._fence = fence
        self._clock = clock

    def read(self) -> Asked:
        """See `Tasks`."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Asked()
        try:
            return Asked.model_validate_json(data)
        except ValidationError as exc:
            raise corrupt(data, str(self._path)) from exc

    def ask(self, task: Task) -> TaskRequest:
        """See `Tasks`; a file that cannot be read is begun anew."""
        with self._locked():
            try:
                before, last = self.read(), 0
            except VersionCorruptError:
                before, last = Asked(), int(self._path.stat().st_mtime)  # above any number so far
            if (waiting := before.waiting) is not None and waiting.task == task:
                return waiting
            number = 1 + (before.request.id if before.request else last)
            request = TaskRequest(
                id=number, classes=task.classes, prompt=task.prompt, at=self._clock()
            )
            self._write(before, request=request)
            return request

    def answer(self, outcome: TaskOutcome) -> None:
        """See `Tasks`."""
        with self._locked():
            before = self.read()
            self._fence()
            self._write(before, outcome=outcome)

    def note_configured(self, digest: str) -> None:
        """See `Tasks`; a file that cannot be read is begun anew, or no worker would start."""
        with self._locked():
            try:
                before = self.read()
            except VersionCorruptError:
                before = Asked()
            self._fence()
            if before.configured != digest:
                self._write(before, configured=digest)

    def _write(self, before: Asked, **changes: object) -> None:
        after = before.model_copy(update=changes)
        write_atomic(self._path, after.model_dump_json().encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_name(f".{self._path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def corrupt(data: bytes, where: str) -> VersionCorruptError:
    """What a reader of something that is no request is told."""
    return VersionCorruptError(
        f"{where} holds {data[:60]!r}, expected the classes that were asked for; ask again with "
        "'adaptsvc versions classes --set FILE'"
    )
