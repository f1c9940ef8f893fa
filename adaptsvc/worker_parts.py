"""What a worker is put together from, and what it says of one turn of its loop. It does nothing itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from adaptsvc.images import Preprocess
from adaptsvc.learner import Learner
from adaptsvc.metrics import Observer
from adaptsvc.publishing import Publisher
from adaptsvc.rounds import Round
from adaptsvc.shadow_record import Verdict
from adaptsvc.tracing import OFF, Tracer
from adaptsvc.types import Task
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.store import Store
from streams.log import Log


@dataclass(frozen=True, slots=True)
class Tick:
    """What one turn of the loop did."""

    received: int
    dead_letters: int
    round: Round | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker works with."""

    log: Log
    store: Store
    pointer: Pointer
    learner: Learner
    publisher: Publisher
    preprocess: Preprocess
    observer: Observer
    enforce_retention: Callable[[float], object] = lambda _now: None
    check_lease: Callable[[], None] = lambda: None
    give_way: Callable[[threading.Event], object] = lambda _stop: None
    prune: Callable[[], object] = lambda: None
    task: Callable[[Task], Task] = lambda ours: ours
    is_asked: Callable[[], bool] = lambda: False
    tell_drift: Callable[[bytes], object] = lambda _summary: None
    try_candidates: Callable[[float], Verdict | None] = lambda _now: None
    tracer: Tracer = OFF
