"""The images a round learns from: those since the last round and a sample of those before, each once.

It knows nothing of streams, files or models. An image id that comes again replaces its older entry, so
redelivery is harmless.

It is a reservoir in bounded memory. A new image takes the place of any that a round has taken, each as
likely as another, so that the past is remembered in its proportions and fades exponentially. A stream brings
like images in a row; were the oldest to go, a round would see few of the classes there are.

What must not be forgotten is an image that no round has taken. So the window is full when such images are
all it holds: one more would push one of them out. Its owner then reads no more until a round has taken them,
which with a full window is due at once, even if fewer images came than usually start one.

Reference: Aggarwal, "On Biased Reservoir Sampling in the Presence of Stream Evolution", VLDB 2006.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

LEAST_IMAGES = 2  # a batch of one has no statistics


@dataclass(frozen=True, slots=True)
class Sample:
    """One image in the window.

    Attributes:
        image_id: the sender's name for it.
        pixels: (3, H, W) uint8 at model size.
        zero_shot: (C,) float32, its probabilities under the frozen zero-shot model.
        weight: its UEO weight, in (0, 1].
        source: where it can be read again: topic, partition, offset.
    """

    image_id: str
    pixels: npt.NDArray[np.uint8]
    zero_shot: npt.NDArray[np.float32]
    weight: float
    source: tuple[str, int, int]


class Window:
    """At most `capacity` distinct images, those that no round has taken before all others.

    The same arrivals leave the same images, also when it was put together again in between.

    Example:
        >>> window = Window(capacity=2)
        >>> pixels, p = np.zeros((3, 1, 1), np.uint8), np.ones(1, np.float32)
        >>> for name in ("a", "b", "a", "c"):
        ...     window.add(Sample(name, pixels, p, 1.0, ("t", 0, 0)))
        >>> [sample.image_id for sample in window.samples], window.is_full
        (['a', 'c'], True)
        >>> window.take()
        >>> window.is_full
        False
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"got a window of {capacity} images; it must hold at least 1")
        self.capacity = capacity
        self._taken: OrderedDict[str, Sample] = OrderedDict()
        self._fresh: OrderedDict[str, Sample] = OrderedDict()

    def __len__(self) -> int:
        return len(self._taken) + len(self._fresh)

    def add(self, sample: Sample) -> None:
        """Put one image in; when there are too many, one a round has taken leaves, or else the oldest."""
        name = sample.image_id
        home = self._taken if name in self._taken else self._fresh
        home.pop(name, None)
        home[name] = sample
        if len(self) <= self.capacity:
            return
        if not (taken := list(self._taken)):
            self._fresh.popitem(last=False)
            return
        del self._taken[Random(name).choice(taken)]

    def take(self) -> None:
        """A round takes every image; they may be forgotten from now on."""
        self._taken |= self._fresh
        self._fresh.clear()

    def get(self, image_id: str) -> Sample | None:
        """The image of that id, if it is still here."""
        return self._fresh.get(image_id) or self._taken.get(image_id)

    @property
    def fresh(self) -> int:
        """How many images no round has taken."""
        return len(self._fresh)

    @property
    def waiting(self) -> tuple[Sample, ...]:
        """The images that no round has taken, oldest first."""
        return tuple(self._fresh.values())

    @property
    def is_full(self) -> bool:
        """Whether one image more would push out one that no round has taken."""
        return len(self._fresh) >= self.capacity

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every image, oldest first; those that no round has taken stand last."""
        return (*self._taken.values(), *self._fresh.values())


def capacity(most_images: int, most_bytes: int, *, image_bytes: int) -> int:
    """How many images may be held where they are bounded in number and in bytes.

    Args:
        most_images: in number.
        most_bytes: in bytes.
        image_bytes: what one takes at most.

    Raises:
        ValueError: not even two fit.
    """
    if (fit := most_bytes // image_bytes) < LEAST_IMAGES:
        raise ValueError(
            f"got room of {most_bytes} bytes; one image takes {image_bytes}, and a round needs "
            f"{LEAST_IMAGES}: give it at least {LEAST_IMAGES * image_bytes}"
        )
    return min(most_images, fit)
