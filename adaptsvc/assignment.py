"""Which classes the worker works for: those of the version that serves, and others when people ask for them.

It knows nothing of streams, windows or rounds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from adaptsvc.clip.load import Clip
from adaptsvc.clip.prompt import Prompt
from adaptsvc.config import Settings
from adaptsvc.errors import (
    LeaseLostError,
    ModelError,
    PromotionConflictError,
    PromotionHeldError,
    StateError,
    VersionError,
    VersionTooLargeError,
)
from adaptsvc.publishing import zero_shot_draft
from adaptsvc.serving.encoder import Encoder
from adaptsvc.state import State
from adaptsvc.types import Task
from adaptsvc.versions.task_desk import held, task_of
from adaptsvc.versions.tasks import TaskOutcome, TaskRequest

log = logging.getLogger(__name__)
LOOK_S, RETRY_S = 0.5, 10.0


class Assignment:
    """What to work for.

    Args:
        state: a worker's.
        clip: whose text tower encodes class names.
        encoder: the base model without a delta, for the self-test of what is published.
        settings: the worker's.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        state: State,
        clip: Clip,
        encoder: Encoder,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._clip = clip
        self._encoder = encoder
        self._settings = settings
        self._clock = clock
        self._look_at = float("-inf")
        self._version: int | None = None  # whose task is known
        self._task = settings.task

    def look(self, ours: Task) -> Task:
        """What to work for from now on, once a request that waits is answered; ours where nobody knows.

        Raises:
            LeaseLostError: another worker writes by now.
            DiskFullError: there is no room for the version; the request waits.
        """
        if not self._is_due():
            return ours
        try:
            if (request := self._state.tasks.read().waiting) is not None:
                self._answer(request)
            return self._serving(ours)
        except LeaseLostError:
            raise
        except (StateError, VersionError) as exc:
            self._look_at = self._clock() + RETRY_S
            log.warning("which classes are wanted is not known now: %s", exc)
            return ours

    def is_asked(self) -> bool:
        """Whether a request waits; asked between the steps of a round, which then gives way."""
        if not self._is_due():
            return False
        try:
            waits = self._state.tasks.read().waiting is not None
        except (StateError, VersionError):
            return False  # `look` says so
        if waits:
            self._look_at = float("-inf")
        return waits

    def _is_due(self) -> bool:
        now = self._clock()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_S
        return True

    def _serving(self, ours: Task) -> Task:
        """The task of what serves; a version of another model is nothing that we could work on."""
        current = self._state.pointer.read().version
        if current is None:
            return ours
        if current != self._version:
            manifest = self._state.store.manifest(current)
            self._task = task_of(manifest) if manifest.model == self._clip.name else ours
            self._version = current
        return self._task

    def _answer(self, request: TaskRequest) -> None:
        """Make a version for the classes of a request and have it serve, or say why not."""
        try:
            version = self._version_for(request.task)
        except PromotionHeldError as exc:
            self._refuse(request, str(exc))
        except PromotionConflictError as exc:
            log.warning("%s: the classes that were asked for are tried again", exc)
            self._look_at = float("-inf")
        except (ModelError, VersionTooLargeError) as exc:
            self._refuse(request, str(exc))
        except (RuntimeError, MemoryError) as exc:  # torch's; the next start would meet it again
            self._refuse(request, f"the text tower failed: {exc}")
        else:
            self._state.tasks.answer(TaskOutcome(request=request.id, version=version))

    def _version_for(self, task: Task) -> int:
        """The version that serves them: the one that does, or a new one, of which nothing is learned."""
        state, current = self._state, self._state.pointer.read()
        if current.version is not None and task_of(state.store.manifest(current.version)) == task:
            return current.version
        if current.held:
            raise held(current.version)
        prompt = Prompt(self._clip, task.classes, task.prompt)
        settings = self._settings.working_for(task)
        draft, head = zero_shot_draft(self._clip, self._encoder, settings, prompt.values())
        manifest = state.store.publish(draft, {}, head)
        state.pointer.compare_and_set(current.version, manifest.id)
        log.info("version %d: zero-shot, %d other classes", manifest.id, len(task.classes))
        return manifest.id

    def _refuse(self, request: TaskRequest, reason: str) -> None:
        log.error("no version for the classes that were asked for: %s", reason)
        self._state.tasks.answer(TaskOutcome(request=request.id, reason=reason))
