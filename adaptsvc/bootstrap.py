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

from adaptsvc.adapt.distributed import SINGLE, Ranks, start_from_environment
from adaptsvc.clip.load import Clip, load
from adaptsvc.clip.prompt import Prompt
from adaptsvc.config import Settings
from adaptsvc.learner import Learner
from adaptsvc.logs import open_log
from adaptsvc.metrics import Observer
from adaptsvc.publishing import Publisher, ensure_base, zero_shot_draft
from adaptsvc.serving.encoder import Encoder, Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.serving.predictor import Predictor
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Draft, Manifest
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.store import Version, VersionStore
from adaptsvc.worker import Parts, Worker

log = logging.getLogger(__name__)
TEXT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Ready:
    """A loaded model whose base is in the store, and whose zero-shot version can serve."""

    clip: Clip
    prompt: Prompt
    encoder: Encoder
    store: VersionStore
    pointer: FilePointer


def prepare(settings: Settings) -> Ready:
    """Load the model, export its base when missing, and make sure a version for these classes serves.

    Raises:
        ModelError: the model cannot be loaded or exported.
    """
    clip, prompt, encoder, store = _load(settings)
    ready = Ready(clip, prompt, encoder, store, FilePointer(settings.pointer))
    _ensure_version(ready, settings)
    return ready


def zero_shot_predictor(settings: Settings) -> Predictor:
    """A predictor for these classes that nothing was learned for; it is not published.

    Raises:
        ModelError: the model cannot be loaded or exported.
    """
    clip, prompt, encoder, _ = _load(settings)
    draft, head = _zero_shot(clip, prompt, encoder, settings)
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
    """
    ranks = start_from_environment(environment, device=settings.learn.device)
    if ranks.rank == 0:
        worker = build_worker(settings, observer, stop, ranks)
        try:
            worker.run()
        finally:
            worker.dismiss()
        return
    clip, prompt, encoder, _ = _load(settings, str(ranks.device))
    Learner(clip, prompt, encoder, ranks).follow()
    ranks.close()


def build_worker(
    settings: Settings, observer: Observer, stop: threading.Event, ranks: Ranks = SINGLE
) -> Worker:
    """A worker ready to run."""
    ready = prepare(settings)
    runtime = Runtime(settings.serve.device, torch.get_num_threads())
    stream = open_log(settings)
    parts = Parts(
        log=stream,
        store=ready.store,
        pointer=ready.pointer,
        learner=Learner(ready.clip, ready.prompt, ready.encoder, ranks),
        publisher=Publisher(ready.store, ready.pointer, runtime, settings),
        preprocess=ready.clip.preprocess,
        observer=observer,
        enforce_retention=stream.enforce_retention,
    )
    return Worker(parts, settings, stop)


def _load(settings: Settings, device: str = "") -> tuple[Clip, Prompt, Encoder, VersionStore]:
    if settings.learn.threads:
        torch.set_num_threads(settings.learn.threads)
    clip = load(settings.model, device=device or settings.learn.device)
    prompt = Prompt(clip, settings.classes, settings.prompt)
    store = VersionStore(settings.store)
    runtime = Runtime(settings.serve.device, torch.get_num_threads())
    return clip, prompt, build_encoder(ensure_base(clip, store), {}, runtime), store


def _zero_shot(
    clip: Clip, prompt: Prompt, encoder: Encoder, settings: Settings
) -> tuple[Draft, Head]:
    with torch.no_grad():
        head = prompt().cpu().numpy(), prompt.context.detach().cpu().numpy()
    return zero_shot_draft(clip, encoder, settings, head)


def _ensure_version(ready: Ready, settings: Settings) -> None:
    """Keep the serving version if it is for this model and these classes, else publish zero-shot."""
    draft, tensors = _zero_shot(ready.clip, ready.prompt, ready.encoder, settings)
    current = ready.pointer.read().version
    if current is not None and _same_task(ready.store, current, draft, tensors):
        return
    manifest = ready.store.publish(draft, {}, tensors)
    ready.pointer.compare_and_set(current, manifest.id)
    log.info("version %d: %s, zero-shot, %d classes", manifest.id, draft.model, len(draft.classes))


def _same_task(store: VersionStore, current: int, draft: Draft, head: Head) -> bool:
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
