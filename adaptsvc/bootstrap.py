"""Puts a worker together from the settings: model, base, the version to start from, stream.

It knows nothing of what the worker then does. This is the one place that loads torch for the worker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch

from adaptsvc import memory
from adaptsvc.adapt.distributed import SINGLE, Ranks, start_from_environment
from adaptsvc.assignment import Assignment
from adaptsvc.clip.load import Clip, load
from adaptsvc.clip.prompt import Prompt
from adaptsvc.config import Settings
from adaptsvc.cores import usable_cores
from adaptsvc.errors import VersionCorruptError
from adaptsvc.learner import Learner, dismiss
from adaptsvc.metrics import Observer
from adaptsvc.pressure import give_way
from adaptsvc.publishing import Publisher, ensure_base, zero_shot_draft
from adaptsvc.serving.encoder import Encoder, runtime_of
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.serving.predictor import Predictor
from adaptsvc.state import State, open_state
from adaptsvc.streaming import open_log, retention
from adaptsvc.tracers import WORKER, open_tracer
from adaptsvc.trials import Places, Trials
from adaptsvc.types import Task
from adaptsvc.versions.delta import Head
from adaptsvc.versions.files import sweep
from adaptsvc.versions.lease import held
from adaptsvc.versions.manifest import Draft, Manifest
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.retention import prune
from adaptsvc.versions.store import Store, Version
from adaptsvc.versions.task_desk import task_of
from adaptsvc.worker import Worker
from adaptsvc.worker_parts import Parts

log = logging.getLogger(__name__)
NAMED = 5  # classes of an earlier version, in the log
TEXT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Ready:
    """A loaded model whose base is in the store, and whose zero-shot version can serve."""

    clip: Clip
    prompt: Prompt
    encoder: Encoder
    store: Store
    pointer: Pointer

    @property
    def task(self) -> Task:
        """The classes that serve."""
        return self.prompt.task


def prepare(settings: Settings, state: State | None = None) -> Ready:
    """Load the model, export its base when missing, and make sure a version for our classes serves.

    Ours are those of what serves, unless the settings name others than when this was done last.

    Args:
        settings: of this process.
        state: a worker's, which holds the lease; by default a person's, who needs none.

    Raises:
        ModelError: the model cannot be loaded or exported.
        StateError: the shared state is out of reach, or this worker does not hold the lease.
    """
    clip = _clip(settings)  # before anything is made on disk: it may not be there
    state = state or open_state(settings)
    ours = settings.working_for(_task(settings, state))
    prompt, encoder = _export(clip, ours, state.store)
    ready = Ready(clip, prompt, encoder, state.store, state.pointer)
    _ensure_version(ready, ours)
    state.tasks.note_configured(settings.task.digest)
    return ready


def zero_shot_predictor(settings: Settings) -> Predictor:
    """A predictor for these classes that nothing was learned for; it is not published.

    Raises:
        ModelError: the model cannot be loaded or exported.
    """
    clip = _clip(settings)
    prompt, encoder = _export(clip, settings, open_state(settings).store)
    draft, head = zero_shot_draft(clip, encoder, settings, prompt.values())
    manifest = Manifest.seal(draft, id=0, created_at=datetime.now(UTC), files={})
    return Predictor(encoder, Version(manifest, {}, head))


def run_worker(
    settings: Settings, observer: Observer, stop: threading.Event, environment: Mapping[str, str]
) -> None:
    """Learn from the stream until told to stop; of several ranks the first one does, the others help.

    Args:
        settings: of this process.
        observer: told what happens.
        stop: set to end after the step at hand.
        environment: where a launcher such as torchrun says which rank this is.

    Raises:
        ModelError: the model cannot be loaded or exported.
        RanksError: another rank is gone.
        LeaseLostError: another worker writes by now.
    """
    ranks = start_from_environment(environment, device=settings.learn.device)
    if ranks.rank == 0:
        state = open_state(settings, observer, fenced=True)
        with held(state.lease, stop, settings.state.lease_s / 3) as ours:
            if ours:
                sweep(state.store.root)
                _work(build_worker(settings, observer, stop, ranks=ranks, state=state))
            else:
                dismiss(ranks)
        return
    clip = _clip(settings, str(ranks.device))
    prompt, encoder = _export(clip, settings, open_state(settings).store)
    Learner(clip, prompt, encoder, ranks).follow()
    ranks.close()


def build_worker(
    settings: Settings,
    observer: Observer,
    stop: threading.Event,
    *,
    ranks: Ranks = SINGLE,
    state: State | None = None,
) -> Worker:
    """A worker ready to run; without a state it is one that needs no lease."""
    check_lease = _need_none if state is None else state.lease.check
    state = state or open_state(settings, observer)
    store, pointer, pins = state.store, state.pointer, state.pins
    ready = prepare(settings, state)
    assignment = Assignment(state, ready.clip, ready.encoder, settings)
    runtime = runtime_of(settings.serve, torch.get_num_threads())
    stream = open_log(settings)
    trials = _trials(state, settings, observer)
    parts = Parts(
        log=stream,
        store=ready.store,
        pointer=ready.pointer,
        learner=Learner(ready.clip, ready.prompt, ready.encoder, ranks),
        publisher=Publisher(
            ready.store, ready.pointer, runtime, settings, trials.submit if trials else None
        ),
        preprocess=ready.clip.preprocess,
        observer=observer,
        enforce_retention=retention(stream),
        check_lease=check_lease,
        give_way=lambda stop: give_way(settings.slow, settings.learn.give_way_s, stop),
        prune=lambda: prune(
            store, pointer, pins, settings.versions.keep, trials.candidates() if trials else ()
        ),
        task=assignment.look,
        is_asked=assignment.is_asked,
        tell_drift=state.board.write,
        try_candidates=trials.look if trials else _try_none,
        tracer=open_tracer(settings.tracing, WORKER),
    )
    return Worker(parts, settings.working_for(ready.task), stop)


def _work(worker: Worker) -> None:
    try:
        worker.run()
    finally:
        worker.dismiss()
        worker.send_spans()


def _trials(state: State, settings: Settings, observer: Observer) -> Trials | None:
    """What tries candidates on live images, where the settings ask for it."""
    if not settings.shadow.fraction:
        return None
    return Trials(Places(state.store, state.pointer, state.shadow), settings.shadow, observer)


def _try_none(_now: float) -> None:
    return None


def _need_none() -> None:
    return None


def _clip(settings: Settings, device: str = "") -> Clip:
    memory.keep_freed()
    torch.set_num_threads(settings.learn.threads or min(torch.get_num_threads(), usable_cores()))
    return load(settings.model, device=device or settings.learn.device)


def _export(clip: Clip, settings: Settings, store: Store) -> tuple[Prompt, Encoder]:
    prompt = Prompt(clip, settings.classes, settings.prompt)
    runtime = runtime_of(settings.serve, torch.get_num_threads())
    return prompt, build_encoder(ensure_base(clip, store, settings.serve.precision), {}, runtime)


def _task(settings: Settings, state: State) -> Task:
    """The classes to work for: what was said last counts, in the settings or while everything ran."""
    current = state.pointer.read().version
    if current is None or _configured(state) != settings.task.digest:
        return settings.task
    manifest = state.store.manifest(current)
    if (task := task_of(manifest)) != settings.task:
        log.info(
            "version %d serves other classes than the settings name, and they were asked for later",
            current,
        )
    return task


def _configured(state: State) -> str:
    try:
        return state.tasks.read().configured
    except VersionCorruptError as exc:
        log.error("%s; the classes are those of the settings", exc)
        return ""


def _ensure_version(ready: Ready, settings: Settings) -> None:
    """Keep the serving version if it is for this model and these classes, else publish zero-shot."""
    draft, tensors = zero_shot_draft(ready.clip, ready.encoder, settings, ready.prompt.values())
    current = ready.pointer.read().version
    if current is not None and _same_task(ready.store, current, draft, tensors):
        return
    manifest = ready.store.publish(draft, {}, tensors)
    ready.pointer.compare_and_set(current, manifest.id)
    log.info("version %d: %s, zero-shot, %d classes", manifest.id, draft.model, len(draft.classes))
    if current is not None:
        log.warning(
            "version %d takes the place of version %d, which was made for another model, prompt or other "
            "classes (%s) than the settings name; to go back, start with those and activate it",
            manifest.id,
            current,
            ", ".join(ready.store.manifest(current).classes[:NAMED]),
        )


def _same_task(store: Store, current: int, draft: Draft, head: Head) -> bool:
    """Whether a version goes back to this very zero-shot model: base, classes, prompt and text tower."""
    manifest = store.manifest(current)
    keys = ("classes", "prompt", "logit_scale")
    if any(getattr(manifest, key) != getattr(draft, key) for key in keys):
        return False
    while manifest.parent is not None:
        manifest = store.manifest(manifest.parent)
    root = store.load(manifest.id).head.class_embeddings
    return manifest.base == draft.base and bool(
        np.allclose(root, head.class_embeddings, atol=TEXT_TOLERANCE)
    )
