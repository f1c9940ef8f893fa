"""Metrics by kind: under our prefix, right with several processes, and there from the start."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "adaptsvc"


def counter(name: str, text: str, registry: CollectorRegistry, **labels: Sequence[str]) -> Counter:
    """A counter of closed labels, all of them at 0: one that began at 1 would hide its first event."""
    made = Counter(f"{PREFIX}_{name}", text, [*labels], registry=registry)
    for values in product(*labels.values()) if labels else ():
        made.labels(*values)
    return made


def gauge(name: str, text: str, registry: CollectorRegistry, labels: Sequence[str] = ()) -> Gauge:
    """A gauge that is what any process set last."""
    mode: Literal["mostrecent"] = "mostrecent"
    return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry, multiprocess_mode=mode)


def histogram(
    name: str,
    text: str,
    registry: CollectorRegistry,
    buckets: Sequence[float],
    labels: Sequence[str] = (),
) -> Histogram:
    """A histogram of all processes together."""
    return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=registry)
