"""The labeled images a tuning round learns from and is judged by, in bounded memory.

It knows nothing of streams, files or models. Which part an image belongs to follows from its id alone, so an
image that is held out stays so over restarts, relabelling and redelivery.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PARTS = 1000


@dataclass(frozen=True, slots=True)
class LabeledSample:
    """One image and what it shows.

    Attributes:
        image_id: the sender's name for it.
        pixels: (3, H, W) uint8 at model size.
        target: index of its class.
        source: where the image can be read again: topic, partition, offset.
        zero_shot: (C,) float32, its probabilities under the frozen zero-shot model.
    """

    image_id: str
    pixels: npt.NDArray[np.uint8]
    target: int
    source: tuple[str, int, int]
    zero_shot: npt.NDArray[np.float32]


class LabelBuffer:
    """The last `capacity` labeled images, a share of them held out. A new label replaces the old one.

    Args:
        capacity: images in both parts together, at least 2.
        held_out_share: of the images, in (0, 1).

    Example:
        >>> buffer = LabelBuffer(capacity=100, held_out_share=0.25)
        >>> pixels, p = np.zeros((3, 1, 1), np.uint8), np.full(2, 0.5, np.float32)
        >>> for number in range(200):
        ...     buffer.add(LabeledSample(f"image-{number}", pixels, number % 2, ("t", 0, number), p))
        >>> len(buffer), len(buffer.training) + len(buffer.held_out)
        (100, 100)
    """

    def __init__(self, capacity: int, held_out_share: float) -> None:
        if capacity < 2 or not 0 < held_out_share < 1:
            raise ValueError(
                f"got a buffer of {capacity} labels and a held-out share of {held_out_share}; expected "
                "at least 2 and a share in (0, 1)"
            )
        self.capacity = capacity
        self._held_out_parts = held_out_share * PARTS
        self._samples: OrderedDict[str, LabeledSample] = OrderedDict()

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, sample: LabeledSample) -> None:
        """Put one image in; the oldest leaves when the buffer is full."""
        self._samples.pop(sample.image_id, None)
        self._samples[sample.image_id] = sample
        if len(self._samples) > self.capacity:
            self._samples.popitem(last=False)

    def get(self, image_id: str) -> LabeledSample | None:
        """The image of that id, if it is still here."""
        return self._samples.get(image_id)

    def is_held_out(self, image_id: str) -> bool:
        """Whether an image is kept for judging; the same answer for ever."""
        return zlib.crc32(image_id.encode()) % PARTS < self._held_out_parts

    @property
    def samples(self) -> tuple[LabeledSample, ...]:
        """Every image, oldest first."""
        return tuple(self._samples.values())

    @property
    def training(self) -> tuple[LabeledSample, ...]:
        """The images to learn from."""
        return tuple(s for s in self.samples if not self.is_held_out(s.image_id))

    @property
    def held_out(self) -> tuple[LabeledSample, ...]:
        """The images to judge by, never learned from."""
        return tuple(s for s in self.samples if self.is_held_out(s.image_id))
