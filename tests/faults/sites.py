"""The installations that faults are tried on: in files, scaled out, and on a disk that is soon full."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streams.kafka_admin import create_topics
from streams.kafka_settings import KafkaSettings
from streams.topics import load_topics
from tests.faults.site import Site
from tests.redis_server import RedisServer
from tests.streams.broker import Broker

DISK_BYTES = 24 * 2**20
LEASE_S = 4.0
SERVICES = 2


@dataclass(frozen=True, slots=True)
class Model:
    """A tiny CLIP, and a home that was prepared for it; both are left as they are."""

    directory: Path
    home: Path


@dataclass(frozen=True, slots=True)
class Scaled:
    """An installation whose stream is a Kafka broker and whose state is in Redis."""

    site: Site
    broker: Broker
    redis: RedisServer


@contextmanager
def in_files(folder: Path, model: Model) -> Iterator[Site]:
    """On one machine, with two service processes."""
    home = shutil.copytree(model.home, folder / "home")
    with _running(Site(folder, home, model.directory, {"serve.workers": str(SERVICES)})) as site:
        yield site


@contextmanager
def scaled_out(folder: Path, model: Model, redis: RedisServer) -> Iterator[Scaled]:
    """On Kafka, and on a Redis that keeps its data."""
    home = shutil.copytree(model.home, folder / "home")
    (folder / "broker").mkdir()
    with Broker(folder / "broker") as broker:
        create_topics(KafkaSettings(servers=(broker.server,)), load_topics())
        others = {
            "state.kind": "redis",
            "state.url": redis.url,
            "state.prefix": folder.name,
            "state.lease_s": str(LEASE_S),
            "stream.kind": "kafka",
            "stream.kafka.servers": broker.server,
            "stream.kafka.request_timeout_s": "5",
        }
        site = Site(folder, home, model.directory, others)
        site.state.store.share(0)
        site.state.pointer.force(0)
        with _running(site):
            yield Scaled(site, broker, redis)


@contextmanager
def on_small_disk(folder: Path, model: Model) -> Iterator[Site]:
    """Its home is all that a disk of a few megabytes holds."""
    with small_disk(folder / "disk") as disk:
        home = shutil.copytree(model.home, disk / "home")
        with _running(Site(folder, home, model.directory)) as site:
            yield site


@contextmanager
def small_disk(folder: Path, size_bytes: int = DISK_BYTES) -> Iterator[Path]:
    """A disk in memory, mounted at a folder until the end.

    Raises:
        PermissionError: this process may not mount.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "adaptsvc-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(
            f"a full disk cannot be tried: {done.stderr.strip()}; run as root, in a container with "
            "the capability SYS_ADMIN"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _running(site: Site) -> Iterator[Site]:
    try:
        site.start_service()
        yield site
    finally:
        site.close()
