"""The BentoML service: builds everything at start-up and mounts the /v1 application.

It never imports torch or open_clip, nor the Kafka client unless it publishes samples there. BentoML brings
/livez, /readyz and /metrics.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import bentoml
from fastapi import FastAPI
from prometheus_client import REGISTRY

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.images import ImageLimits
from adaptsvc.metrics import Observer, PrometheusObserver, reserve_room
from adaptsvc.processes import end_with_parent
from adaptsvc.serving.app import Classifier, Computing, create_app
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.feedback import LabelDesk, add_feedback
from adaptsvc.serving.live import Alarm, Live
from adaptsvc.serving.requests import RequestLimits
from adaptsvc.serving.sampling import Sampler, SamplingLimits
from adaptsvc.state import open_state
from adaptsvc.streaming import open_log
from adaptsvc.versions.store import Store

log = logging.getLogger(__name__)
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # BentoML sets it
LABEL_BUSY_S = 2.0  # how long a label waits for other writers of the stream, before it is a 503
mounted = FastAPI(openapi_url=None)


@bentoml.asgi_app(mounted)
@bentoml.service(name="adaptsvc", traffic={"timeout": 60})
class Adaptsvc:
    """One service process."""

    def __init__(self) -> None:
        settings = config.read()
        logging.getLogger("adaptsvc").setLevel(settings.log_level)
        end_with_parent()
        if directory := os.environ.get(METRICS_DIRECTORY):
            reserve_room(Path(directory), os.getpid())
        observer = PrometheusObserver(REGISTRY)
        state = open_state(settings, observer)
        runtime = Runtime(settings.serve.device, settings.serve.threads)
        self._live = Live(state.store, state.lasting, runtime, observer=observer)
        self._alarm = Alarm()
        self._follower = threading.Thread(
            target=self._live.follow,
            args=(self._alarm, settings.serve.poll_interval_s),
            name="follow-pointer",
            daemon=True,
        )
        self._flush_s = settings.sample.flush_s
        self._sampler = sampler_of(settings, observer)
        self._sampler.start()
        self._desk = LabelDesk(lambda: open_log(settings, busy_timeout_s=LABEL_BUSY_S))
        served = application(settings, state.store, self._live, observer, sampler=self._sampler)
        add_feedback(served, self._live, self._desk, Computing(1, settings.serve.queue))
        mounted.mount("/", served)
        self._live.poll()
        self._follower.start()
        self._unwatch = state.watch(self._alarm.ring)

    def __is_alive__(self) -> bool:
        """The thread that follows the pointer still runs."""
        return self._follower.is_alive()

    def __is_ready__(self) -> bool:
        """A verified, warmed version answers."""
        return self._live.current is not None

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Publish what was sampled, stop following, and let go of the stream."""
        self._sampler.close(self._flush_s)
        self._unwatch()
        self._alarm.stop()
        self._follower.join(timeout=10)
        self._desk.close()


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


def application(
    settings: Settings, store: Store, live: Live, observer: Observer, *, sampler: Sampler
) -> FastAPI:
    """The /v1 application with these settings."""
    images, serve = settings.images, settings.serve
    limits = ImageLimits(images.max_bytes, images.max_pixels, images.max_side)
    return create_app(
        live,
        store,
        classifier=Classifier(live, limits, observer, sample=sampler.offer),
        computing=Computing(serve.concurrency, serve.queue),
        limits=RequestLimits(images.max_bytes, serve.max_images),
    )
