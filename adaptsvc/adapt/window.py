"""The images a round learns from: the most recent ones, each once, in bounded memory.

It knows nothing of streams, files or models. An image id that comes again replaces its older entry, so
redelivery is harmless.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
    """The last `capacity` distinct images.

    Example:
        >>> window = Window(capacity=2)
        >>> pixels, p = np.zeros((3, 1, 1), np.uint8), np.ones(1, np.float32)
        >>> for name in ("a", "b", "a", "c"):
        ...     window.add(Sample(name, pixels, p, 1.0, ("t", 0, 0)))
        >>> [sample.image_id for sample in window.samples]
        ['a', 'c']
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"got a window of {capacity} images; it must hold at least 1")
        self.capacity = capacity
        self._samples: OrderedDict[str, Sample] = OrderedDict()

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, sample: Sample) -> None:
        """Put one image in; the oldest leaves when the window is full."""
        self._samples.pop(sample.image_id, None)
        self._samples[sample.image_id] = sample
        if len(self._samples) > self.capacity:
            self._samples.popitem(last=False)

    def get(self, image_id: str) -> Sample | None:
        """The image of that id, if it is still here."""
        return self._samples.get(image_id)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every image, oldest first."""
        return tuple(self._samples.values())
