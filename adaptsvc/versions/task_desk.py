"""What people are told of the classes, and how they ask for others. It knows nothing of HTTP or printing."""

from __future__ import annotations

from dataclasses import dataclass

from adaptsvc.errors import PromotionHeldError, VersionNotFoundError
from adaptsvc.types import Task
from adaptsvc.versions.manifest import Manifest
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.store import Store
from adaptsvc.versions.tasks import Asked, Tasks, Wanted


@dataclass(frozen=True, slots=True)
class TaskDesk:
    """Where people ask.

    Args:
        store: where versions are.
        pointer: which one serves.
        tasks: where requests are kept.
    """

    store: Store
    pointer: Pointer
    tasks: Tasks

    def serving(self) -> Manifest:
        """What serves, by the pointer.

        Raises:
            VersionNotFoundError: nothing does.
        """
        current = self.pointer.read().version
        if current is None:
            raise VersionNotFoundError("no version serves yet; start the worker and wait")
        return self.store.manifest(current)

    def asked(self) -> Asked:
        """The last request and what became of it."""
        return self.tasks.read()

    def ask(self, wanted: Wanted) -> bool:
        """Ask for classes; False where they serve already and nothing else was asked for.

        Raises:
            PromotionHeldError: a person holds what serves.
            VersionNotFoundError: nothing serves.
        """
        manifest = self.serving()
        task = Task(wanted.classes, wanted.prompt or manifest.prompt)
        if task == task_of(manifest) and self.asked().waiting is None:
            return False
        if self.pointer.read().held:
            raise held(manifest.id)
        self.tasks.ask(task)
        return True


def task_of(manifest: Manifest) -> Task:
    """What a version tells apart."""
    return Task(manifest.classes, manifest.prompt)


def held(version: int | None) -> PromotionHeldError:
    """What whoever asks for classes is told while a person holds what serves."""
    return PromotionHeldError(
        f"version {version} serves and is held: no other classes can take its place; let go of it "
        f"with 'adaptsvc versions activate {version}', then ask again",
        -1 if version is None else version,
    )
