"""Which waiting jobs make the next inference call, and how fast the work goes: decisions on values and `now`.

It knows nothing of threads, images or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SMOOTHING = 0.2  # weight of the newest measurement
LONGEST_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one inference call may hold.

    Attributes:
        images: most of them, at least 1.
        wait_s: how long the first to come may wait for company; 0 takes only what waits already.
    """

    images: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job that is ready: how many images it has, and since when it waits."""

    images: int
    since_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Take the first `take` jobs; where that is none, look again after `wait_s`, or when another comes."""

    take: int
    wait_s: float


def choose(waiting: Sequence[Ticket], limits: BatchLimits, now: float) -> Choice:
    """The next batch, in the order of arrival; no job is split, and one that is too large goes alone.

    Args:
        waiting: oldest first.
        limits: of a batch.
        now: on the clock of the tickets.

    Example:
        >>> waiting = [Ticket(3, 0.0), Ticket(2, 0.5), Ticket(4, 0.6)]
        >>> choose(waiting, BatchLimits(8, 1.0), now=0.7)
        Choice(take=2, wait_s=0.0)
        >>> choose(waiting, BatchLimits(16, 1.0), now=0.75)
        Choice(take=0, wait_s=0.25)
    """
    if not waiting:
        return Choice(0, math.inf)
    images = take = 0
    for ticket in waiting:
        if take and images + ticket.images > limits.images:
            break
        images, take = images + ticket.images, take + 1
    left_s = waiting[0].since_s + limits.wait_s - now
    if images >= limits.images or take < len(waiting) or left_s <= 0:
        return Choice(take, 0.0)
    return Choice(0, left_s)


def buckets(images: int) -> tuple[int, ...]:
    """Batch sizes to warm before serving: powers of two up to the largest, and that one.

    Example:
        >>> buckets(12), buckets(1)
        ((1, 2, 4, 8, 12), (1,))
    """
    powers = [2**k for k in range(images.bit_length()) if 2**k < images]
    return (*powers, images)


class Pace:
    """Seconds per image while there is work, measured from one completion to the next.

    Example:
        >>> pace = Pace()
        >>> pace.started(10.0)
        >>> pace.finished(2, 10.5)
        >>> pace.seconds(4)
        1.0
    """

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._per_image_s: float | None = None

    def started(self, now: float) -> None:
        """There is work again, after there was none."""
        self._since_s = now

    def finished(self, images: int, now: float) -> None:
        """So many images came out; the next ones are already under way."""
        if self._since_s is not None:
            found = max(0.0, now - self._since_s) / images
            before = found if self._per_image_s is None else self._per_image_s
            self._per_image_s = before + SMOOTHING * (found - before)
        self._since_s = now

    def seconds(self, images: int) -> float:
        """How long so many images take; 0 while nothing was measured."""
        return images * (self._per_image_s or 0.0)


def retry_after_s(seconds: float) -> int:
    """A wait as the header Retry-After says it: whole seconds, 1 to 60.

    Example:
        >>> [retry_after_s(seconds) for seconds in (0.0, 1.2, 900.0)]
        [1, 2, 60]
    """
    return min(LONGEST_RETRY_S, max(1, math.ceil(seconds)))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not admitted, and after how long it may be worth another try."""

    reason: Literal["queue", "deadline"]
    retry_s: float


class Admission:
    """How many images are inside, waiting or being computed, and whether more may come.

    Args:
        images: most of them; a job larger than that is admitted when nothing else is inside.
    """

    def __init__(self, images: int) -> None:
        self._most = images
        self._pace = Pace()
        self.inside = 0

    def admit(self, images: int, deadline_s: float, now: float) -> Refusal | None:
        """Let a job in, unless there is no room or its turn would come after its deadline."""
        wait_s = self._pace.seconds(self.inside)
        if self.inside and self.inside + images > self._most:
            return Refusal("queue", wait_s)
        if self.inside and wait_s > deadline_s:
            return Refusal("deadline", wait_s - deadline_s)
        if not self.inside:
            self._pace.started(now)
        self.inside += images
        return None

    def leave(self, images: int) -> None:
        """A job is over, answered or not."""
        self.inside -= images

    def finished(self, images: int, now: float) -> None:
        """So many images were computed."""
        self._pace.finished(images, now)
