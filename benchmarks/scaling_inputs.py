"""What `benchmarks.scaling` reckons with: figures that were measured, each with the words of the page where
it stands, and of foreign hardware only what others have published. It reckons nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Input:
    """A figure.

    Attributes:
        value: in `unit`.
        unit: of it.
        what: it is of.
        page: of `docs/` where it was measured, or the address of who published it.
        words: of that page, which hold it; empty where the page is not ours.
    """

    value: float
    unit: str
    what: str
    page: str
    words: str = ""


BENCHMARKS, KUBERNETES = "benchmarks.md", "kubernetes.md"
MEASURED = {
    "stream_per_s": Input(
        270, "images/s", "from Kafka to tensors, one consumer", BENCHMARKS, "| the log | 270 images/s"
    ),
    "request_ms": Input(
        20, "ms", "of one core, a request over HTTP", KUBERNETES, "20 ms a request of one photo"
    ),
    "replica_mb": Input(
        518, "MB", "memory of a service of two processes", KUBERNETES, "518 MB: 108, 201, 209"
    ),
    "image_kb": Input(
        40, "kB", "an image (JPEG, 500 x 375)", BENCHMARKS, "JPEGs of 40 kB, lite"
    ),
    "decode_ms": Input(
        3.7, "ms", "decoding one, of one core", BENCHMARKS, "| JPEG 500x375 | 7.6 | 3.7 |"
    ),
    "one_ratio": Input(
        0.78, "x", "one request at a time, of one bare thread", BENCHMARKS, "| 1 (of one bare thread) | 0.78 "
    ),
    "eight_ratio": Input(
        0.95, "x", "8 at once, of the bare loop on two cores", BENCHMARKS, "| 8 | 0.95 (0.88 - 0.98)"
    ),
    "many_ratio": Input(
        0.96, "x", "32 at once, of the same", BENCHMARKS, "| 32 | 0.96 (0.91 - 1.03)"
    ),
    "steps_per_s": Input(
        48.3, "images/s", "steps of a round, two cores", BENCHMARKS, "| a round | 48.3 (45.1 - 49.4)"
    ),
    "text_share": Input(
        22 / 660, "x", "of a step that ranks do not share: the text tower", BENCHMARKS,
        "takes 22 ms of a step's 660",
    ),
    "base_mb": Input(
        33.9, "MB", "that a replica fetches for a new base, lite", BENCHMARKS, "fetches the base) | 33.9 MB"
    ),
    "large_base_mb": Input(353, "MB", "a base, ViT-B-32", "operations.md", "ViT-B-32 353 MB"),
    "swap_kb": Input(
        215, "kB", "that it fetches for a delta, ten classes", BENCHMARKS, "for a swap to a delta | 215 kB"
    ),
    "series": Input(
        340, "", "samples of a scrape of it, ten classes", BENCHMARKS, "the service's own | 340, 279"
    ),
    "redis_per_s": Input(
        5.18, "/s", "commands that it asks of Redis", BENCHMARKS, "over 60 s | 5.18"
    ),
    "connections": Input(6, "", "its connections to Redis", BENCHMARKS, "Redis: connections | 6"),
    "demo_images": Input(
        1280,
        "images",
        "that the demo streams, five rounds of them",
        "../README.md",
        "streams 1,280 clothing photos",
    ),
    "demo_minutes": Input(
        4,
        "minutes",
        "that it takes, beside a service that answers",
        "../README.md",
        "One run of seed 0, 4 minutes on 2 cores",
    ),
}  # fmt: skip
PUBLISHED = {
    "kafka_mb_s": Input(
        605, "MB/s", "produced to the Kafka cluster of Confluent's benchmark", "https://developer.confluent.io/learn/kafka-performance/"
    ),
    "redis_gets": Input(
        81_000, "/s", "GETs of one Redis on one Xeon X3320", "https://raw.githubusercontent.com/antirez/redis/2.2.14/doc/Benchmarks.html"
    ),
    "redis_clients": Input(
        10_000, "", "`maxclients` of Redis as delivered", "https://redis.io/docs/latest/develop/reference/clients/"
    ),
}  # fmt: skip
