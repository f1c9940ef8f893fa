"""The BentoML service: builds everything at start-up and mounts the /v1 application.

It never imports torch or open_clip, nor the Kafka client unless it publishes samples there. BentoML brings
/livez, /readyz and /metrics.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import bentoml
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.exceptions import HTTPException

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.drift_summary import SIGNALS
from adaptsvc.images import ImageLimits, decode
from adaptsvc.logs import keep_to_one_line
from adaptsvc.metric_files import reserve_room
from adaptsvc.metrics import Observer
from adaptsvc.pressure import Alert, is_pressed
from adaptsvc.processes import end_with_parent
from adaptsvc.prometheus import PrometheusObserver
from adaptsvc.serving.answers import Classifier
from adaptsvc.serving.app import Computing, create_app
from adaptsvc.serving.batching import BatchLimits, buckets
from adaptsvc.serving.classes import add_classes
from adaptsvc.serving.connections import Connection, limit_connections, share_connections
from adaptsvc.serving.door import Door, DoorMiddleware, check_exposure
from adaptsvc.serving.drifting import DriftDesk, add_drift
from adaptsvc.serving.encoder import runtime_of
from adaptsvc.serving.engine import Engine, EngineLimits
from adaptsvc.serving.feedback import LabelDesk, add_feedback
from adaptsvc.serving.gate import Gate, GateLimits
from adaptsvc.serving.health import CanaryLimits, Health
from adaptsvc.serving.keys import keys_of
from adaptsvc.serving.leaving import Leaving
from adaptsvc.serving.live import Alarm, Live
from adaptsvc.serving.mounted import count_by_route, mounted
from adaptsvc.serving.page import add_page, assets
from adaptsvc.serving.requests import RequestLimits
from adaptsvc.serving.roster import Roster
from adaptsvc.serving.sampling import Sampler, SamplingLimits
from adaptsvc.serving.shadow import Shadow, Surroundings
from adaptsvc.serving.tensors import add_tensors
from adaptsvc.serving.traced import Traced
from adaptsvc.serving.versioning import add_versions
from adaptsvc.serving.waiting import Desk
from adaptsvc.state import State, open_state
from adaptsvc.streaming import open_log
from adaptsvc.tracers import SERVICE, open_tracer
from adaptsvc.trust.sequential import threshold
from adaptsvc.versions.board import Board
from adaptsvc.versions.history import Desk as VersionDesk
from adaptsvc.versions.pointer import Pointer
from adaptsvc.versions.store import Store
from adaptsvc.versions.task_desk import TaskDesk

log = logging.getLogger(__name__)
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # BentoML sets it, the same for all processes
ROSTER = "connections"
LABEL_BUSY_S = 2.0  # how long a label waits for other writers of the stream, before it is a 503
DRIFT_POLL_S = 2.0  # how often the gauges of drift look at what the worker wrote
LABELS_WAITING = 64  # and how many wait at once
count_by_route()
limit_connections()
share_connections()
door = Door()  # closed until a service opens it with the keys of its settings


@bentoml.asgi_app(mounted)
@bentoml.service(name="adaptsvc")
class Adaptsvc:
    """One service process."""

    def __init__(self) -> None:
        settings = config.read()
        Connection.head_s = settings.serve.head_s
        logging.getLogger("adaptsvc").setLevel(settings.log_level)
        keep_to_one_line()
        end_with_parent()
        if directory := os.environ.get(METRICS_DIRECTORY):
            reserve_room(Path(directory), os.getpid())
            Connection.roster = Roster.join(Path(directory) / ROSTER)
        observer = PrometheusObserver(REGISTRY)
        tracing = settings.tracing
        self._tracer = open_tracer(tracing, SERVICE, sample_ratio=tracing.sample_ratio)
        state = open_state(settings, observer)
        self._live = live_of(settings, state.store, state.lasting, observer)
        self._alarm = Alarm()
        poll_s = settings.serve.poll_interval_s
        self._follower = _follower("pointer", self._live.follow, self._alarm, poll_s)
        self._drift_stop = threading.Event()
        self._drift = drift_of(settings, state.board, observer)
        self._drift_follower = _follower(
            "drift", self._drift.follow, self._drift_stop, DRIFT_POLL_S
        )
        self._settings = settings
        self._sampler = sampler_of(settings, observer)
        self._engine = engine_of(settings, self._live, observer)
        self._shadow = shadow_of(settings, state, self._live, observer)
        self._health = health_of(settings, self._engine, observer)
        Connection.is_fit = self._can_answer
        self._labels = LabelDesk(lambda: open_log(settings, busy_timeout_s=LABEL_BUSY_S))
        self._leaving = Leaving(settings.serve.drain_notice_s)
        alert = Alert(settings.slow, settings.serve.slow_s)
        desk = Desk(self._engine, settings.serve.deadline_s, observer=observer, noted=alert.note)
        limits = request_limits(settings)
        classifier = Classifier(observer, sample=self._sampler.offer)
        served = create_app(self._live, desk=desk, classifier=classifier, limits=limits)
        add_tensors(served, self._live, desk, limits, self._health.unproven)
        shadow = state.shadow if self._shadow else None
        add_versions(served, VersionDesk(state.store, state.lasting, state.pins, shadow), door)
        add_classes(served, self._live, TaskDesk(state.store, state.pointer, state.tasks), door)
        add_drift(served, self._live, self._drift)
        page = assets()
        add_page(served, page)
        add_feedback(served, self._live, self._labels, Computing(1, LABELS_WAITING))
        self._mount(served, observer)
        open_door(settings, observer, page)
        self._live.poll()
        self._start()
        self._unwatch = state.watch(self._alarm.ring)

    async def __is_alive__(self) -> bool:
        """The thread that follows the pointer runs, and inference works."""
        if problem := self._health.problem():
            raise HTTPException(503, problem)
        return self._follower.is_alive()

    async def __is_ready__(self) -> bool:
        """A verified, warmed version answers on the device that was asked for, and a canary came back."""
        if self._leaving():
            raise HTTPException(503, "the process is about to end")
        if self._live.current is None:
            raise HTTPException(503, self._live.refusal or "no version has been published yet")
        if problem := self._health.unproven():
            raise HTTPException(503, problem)
        return True

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what is inside, publish what was sampled, stop following, send the last spans."""
        self._health.close()
        self._engine.close(timeout_s=self._settings.serve.drain_s)
        self._sampler.close(self._settings.sample.flush_s)
        if self._shadow is not None:
            self._shadow.close()
        self._unwatch()
        self._alarm.stop()
        self._drift_stop.set()
        self._follower.join(timeout=10)
        self._labels.close()
        self._tracer.close(self._settings.tracing.flush_s)

    def _mount(self, served: FastAPI, observer: Observer) -> None:
        serve = self._settings.serve
        gate = GateLimits(serve.open_requests, serve.body_s, serve.timeout_s)
        served.add_middleware(Gate, limits=gate, observer=observer, leaving=self._leaving)
        if self._tracer.on:
            served.add_middleware(Traced, tracer=self._tracer)
        mounted.app, mounted.entrance = served, DoorMiddleware(served, door)

    def _can_answer(self) -> bool:
        return self._live.current is not None and not self._health.problem()

    def _start(self) -> None:
        self._sampler.start()
        if self._shadow is not None:
            self._engine.show(self._shadow.offer)
            self._shadow.start()
        self._engine.start()
        self._health.start()
        self._follower.start()
        self._drift_follower.start()
        self._leaving.listen()


def _follower(what: str, follow: Callable[..., None], *args: object) -> threading.Thread:
    return threading.Thread(target=follow, args=args, name=f"follow-{what}", daemon=True)


def drift_of(settings: Settings, board: Board, observer: Observer) -> DriftDesk:
    """What repeats the worker's words on drift; its signals share the false alarms equally."""
    images_per_false_alarm = len(SIGNALS) * settings.drift.images_per_false_alarm
    return DriftDesk(board, threshold(images_per_false_alarm), observer)


def live_of(settings: Settings, store: Store, pointer: Pointer, observer: Observer) -> Live:
    """What follows the pointer; new sessions are warmed before they serve.

    On the CPU the largest batch is enough, for what a first call costs is memory: with lite the first of 8
    images took 1.1 to 1.4 times as long as later ones, and first calls of 4 and 2 after it no longer than
    theirs. Beside requests not even that: a call of 62 ms, to save 19 of the first two. On CUDA each shape
    has algorithms to choose.
    """
    serve = settings.serve
    runtime = runtime_of(serve, serve.call_threads)
    most = serve.batch_images
    first, later = (buckets(most),) * 2 if serve.device == "cuda" else ((most,), ())
    return Live(store, pointer, runtime, observer=observer, batches=first, later_batches=later)


def engine_of(settings: Settings, live: Live, observer: Observer) -> Engine:
    """The threads that decode and infer."""
    serve, limits = settings.serve, ImageLimits.of(settings.images)
    return Engine(
        lambda: live.current,
        lambda data, preprocess: decode(data, preprocess, limits),
        EngineLimits(
            serve.decoders,
            serve.inferences,
            serve.queue_images,
            BatchLimits(serve.batch_images, serve.batch_wait_s),
        ),
        observer=observer,
    )


def shadow_of(settings: Settings, state: State, live: Live, observer: Observer) -> Shadow | None:
    """What has candidates answer live images too, where the settings ask for it."""
    if not settings.shadow.fraction:
        return None
    around = Surroundings(
        desk=state.shadow,
        prepare=live.prepare,
        is_slow=lambda: is_pressed(settings.slow, time.time()),
        own_priority=settings.serve.call_threads == 1,
        poll_interval_s=settings.serve.poll_interval_s,
    )
    return Shadow(around, settings.shadow, observer)


def health_of(settings: Settings, engine: Engine, observer: Observer) -> Health:
    """The canaries."""
    serve = settings.serve
    limits = CanaryLimits(serve.canary_interval_s, serve.canary_timeout_s)
    return Health(engine, limits, observer=observer)


# BentoML's own routes are behind it too.
cast(Any, Adaptsvc).add_asgi_middleware(DoorMiddleware, door=door)


def open_door(settings: Settings, observer: Observer, page: Iterable[str]) -> None:
    """Let in whoever the settings name; the page is for anybody.

    Raises:
        ConfigError: strangers could connect, and there are no keys.
    """
    serve, keys = settings.serve, keys_of(settings.serve.keys)
    check_exposure(serve.host, keys)
    most_bytes = request_limits(settings).body_bytes
    door.open(
        keys,
        metrics_open=serve.metrics == "open",
        most_bytes=most_bytes,
        observer=observer,
        page=page,
    )


def sampler_of(settings: Settings, observer: Observer) -> Sampler:
    """What publishes samples, with this process's equal share of the cap."""
    sample = settings.sample
    limits = SamplingLimits(
        sample.fraction,
        sample.per_second / settings.serve.workers,
        sample.queue_images,
        sample.queue_bytes,
    )
    return Sampler(lambda: open_log(settings), limits, observer)


def request_limits(settings: Settings) -> RequestLimits:
    """What one request may hold."""
    serve = settings.serve
    return RequestLimits(settings.images.max_bytes, serve.max_images, serve.max_body_bytes)
