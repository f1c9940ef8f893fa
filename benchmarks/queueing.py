"""Waiting for a processor, simulated: what `benchmarks.scaling` takes for one service process.

A process is one server with a queue in the order of arrival; requests keep to the process that has their
connection, so a replica is so many queues side by side and not one queue with so many servers. Times of one
request are lognormal: their mean and how far their 99th percentile lies from the median are measured. It
knows nothing of figures or documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]
NORMAL_P99 = 2.3263  # standard deviations


@dataclass(frozen=True, slots=True)
class Service:
    """The time a process spends on a request.

    Attributes:
        mean_s: above 0.
        p99_of_median: their ratio, at least 1; 1 is the same time for all.
    """

    mean_s: float
    p99_of_median: float

    def draw(self, count: int, rng: np.random.Generator) -> Seconds:
        """Times of so many requests."""
        sigma = math.log(self.p99_of_median) / NORMAL_P99
        return rng.lognormal(math.log(self.mean_s) - sigma**2 / 2, sigma, count)


@dataclass(frozen=True, slots=True)
class Burst:
    """Arrivals that come and go: `factor` times the mean for `length_s` of every `period_s`.

    Attributes:
        factor: at least 1, and under `period_s` / `length_s`.
        length_s: above 0.
        period_s: above `length_s`.
    """

    factor: float
    length_s: float
    period_s: float

    def stretch(self, even: Seconds) -> Seconds:
        """Arrival times (N,) of an even stream, moved to where this one has as many of them.

        Example:
            >>> Burst(2.0, 10.0, 60.0).stretch(np.array([10.0, 20.0, 40.0, 60.0])).tolist()
            [5.0, 10.0, 35.0, 60.0]
        """
        early = self.factor * self.length_s  # what has come when a burst ends
        rounds, within = np.divmod(even, self.period_s)
        at = np.interp(within, [0.0, early, self.period_s], [0.0, self.length_s, self.period_s])
        return rounds * self.period_s + at


def waits(arrivals: Seconds, times: Seconds) -> Seconds:
    """How long each of N requests waits for those before it (Lindley's recursion).

    Args:
        arrivals: (N,) ascending.
        times: (N,) that each takes.

    Example:
        >>> waits(np.array([0.0, 1.0, 10.0]), np.array([3.0, 3.0, 3.0])).tolist()
        [0.0, 2.0, 0.0]
    """
    walk = np.concatenate([[0.0], np.cumsum(times[:-1] - np.diff(arrivals))])
    return walk - np.minimum.accumulate(walk)


def p99_s(
    service: Service, utilisation: float, burst: Burst | None, *, requests: int, seed: int
) -> float:
    """The 99th percentile of waiting and computing of one process that is so busy on average."""
    rng = np.random.default_rng(seed)
    even = np.cumsum(rng.exponential(service.mean_s / utilisation, requests))
    times = service.draw(requests, rng)
    arrivals = even if burst is None else burst.stretch(even)
    return float(np.quantile(waits(arrivals, times) + times, 0.99))


def most_utilisation(
    service: Service, limit_s: float, burst: Burst | None, *, requests: int, seed: int
) -> float:
    """The highest utilisation, in hundredths, at which the 99th percentile keeps to a limit; 0 if none."""
    low, high = 0, 100
    while high - low > 1:
        middle = (low + high) // 2
        found = p99_s(service, middle / 100, burst, requests=requests, seed=seed)
        low, high = (middle, high) if found <= limit_s else (low, middle)
    return low / 100


def closed(
    service: Service, clients: int, processes: int, *, requests: int, seed: int
) -> tuple[float, float, float]:
    """Clients that ask again as soon as they are answered: requests a second, median, 99th percentile (s).

    Each connection falls to a process by chance. A process with k of them always has work, and a request
    waits for k - 1 others; one without any stands idle.
    """
    rng = np.random.default_rng(seed)
    latencies: list[Seconds] = []
    busy = 0
    splits = 200
    for _ in range(splits):
        held = np.bincount(rng.integers(processes, size=clients), minlength=processes)
        for k in held[held > 0]:
            times = np.concatenate([[0.0], np.cumsum(service.draw(requests // splits, rng))])
            latencies.append(times[k:] - times[:-k])
            busy += 1
    together = np.concatenate(latencies)
    median, p99 = np.quantile(together, [0.5, 0.99])
    return busy / splits / service.mean_s, float(median), float(p99)
