"""The BentoML service: builds everything at start-up and mounts the /v1 application.

It never imports torch or open_clip, nor the Kafka client unless it publishes samples there. BentoML brings
/livez, /readyz and /metrics.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import bentoml
from fastapi import FastAPI
from prometheus_client import REGISTRY

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.images import ImageLimits
from adaptsvc.logs import keep_to_one_line
from adaptsvc.metrics import Observer, PrometheusObserver
from adaptsvc.serving.app import Classifier, Computing, create_app
from adaptsvc.serving.door import Door, DoorMiddleware, check_exposure
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.feedback import LabelDesk, add_feedback
from adaptsvc.serving.keys import keys_of
from adaptsvc.serving.live import Alarm, Live
from adaptsvc.serving.requests import RequestLimits
from adaptsvc.serving.sampling import Sampler, SamplingLimits
from adaptsvc.serving.versioning import add_versions
from adaptsvc.state import open_state
from adaptsvc.streaming import open_log
from adaptsvc.versions.history import Desk as VersionDesk

log = logging.getLogger(__name__)
LABEL_BUSY_S = 2.0  # how long a label waits for other writers of the stream, before it is a 503
mounted = FastAPI(openapi_url=None)
door = Door()  # closed until a service opens it with the keys of its settings


@bentoml.asgi_app(mounted)
@bentoml.service(name="adaptsvc", traffic={"timeout": 60})
class Adaptsvc:
    """One service process."""

    def __init__(self) -> None:
        settings = config.read()
        logging.getLogger("adaptsvc").setLevel(settings.log_level)
        keep_to_one_line()
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
        served = application(settings, self._live, observer, sampler=self._sampler)
        add_versions(served, VersionDesk(state.store, state.lasting, state.pins), door)
        add_feedback(served, self._live, self._desk, Computing(1, settings.serve.queue))
        mounted.mount("/", served)
        open_door(settings, observer)
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


# BentoML's own routes are behind it too.
cast(Any, Adaptsvc).add_asgi_middleware(DoorMiddleware, door=door)


def open_door(settings: Settings, observer: Observer) -> None:
    """Let in whoever the settings name.

    Raises:
        ConfigError: strangers could connect, and there are no keys.
    """
    serve, keys = settings.serve, keys_of(settings.serve.keys)
    check_exposure(serve.host, keys)
    most_bytes = RequestLimits(settings.images.max_bytes, serve.max_images).body_bytes
    door.open(keys, metrics_open=serve.metrics == "open", most_bytes=most_bytes, observer=observer)


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


def application(settings: Settings, live: Live, observer: Observer, *, sampler: Sampler) -> FastAPI:
    """The /v1 application with these settings."""
    images, serve = settings.images, settings.serve
    limits = ImageLimits(images.max_bytes, images.max_pixels, images.max_side)
    return create_app(
        live,
        classifier=Classifier(live, limits, observer, sample=sampler.offer),
        computing=Computing(serve.concurrency, serve.queue),
        limits=RequestLimits(images.max_bytes, serve.max_images),
    )
