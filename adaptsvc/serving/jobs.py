"""What the engine is given: images to answer, and what makes their answer.

It knows nothing of threads or batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from adaptsvc.errors import ImageError
from adaptsvc.images import Preprocess
from adaptsvc.serving.batching import Ticket
from adaptsvc.serving.predictor import Predictor
from adaptsvc.tracing import IMAGES, Attributes, Span
from adaptsvc.types import Float32, UInt8


@dataclass(frozen=True, slots=True)
class Item:
    """One image to answer.

    Attributes:
        data: the encoded image; not looked at where there are pixels.
        image_id: empty is the SHA-256 of the bytes.
        pixels: (3, H, W), of an image that came decoded.
    """

    data: bytes
    image_id: str = ""
    pixels: UInt8 | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as pixels (3, H, W), or why it is none."""

    image_id: str
    pixels: UInt8 | None
    error: ImageError | None = None


# Makes the answer of a job: by the predictor that computed its embeddings (N, D), of those of its images that
# have pixels. Called once, in a thread of the engine.
Finish: TypeAlias = Callable[[Predictor, Sequence[Decoded], Float32], Any]


# Shown what was answered, after it was: by which predictor, and the images with pixels and their embeddings.
Shown: TypeAlias = Callable[[Predictor, Sequence[Decoded], Float32], None]


@dataclass(slots=True, eq=False)
class Job:
    """Some images that are answered together, on their way through the engine.

    Attributes:
        items: at least one.
        finish: makes the answer.
        entered_s: when it came, on the engine's clock.
        trace: the request it belongs to.
        future: its answer.
        images: the items, decoded.
        decode_s: how long that took.
        ready_s: when they were.
        preprocess: how they were.
    """

    items: Sequence[Item]
    finish: Finish
    entered_s: float
    trace: Span
    future: Future[Any] = field(default_factory=Future)
    images: list[Decoded] = field(default_factory=list)
    decode_s: float = 0.0
    ready_s: float = 0.0
    preprocess: Preprocess | None = None

    @property
    def ticket(self) -> Ticket:
        """What decides on batches."""
        return Ticket(len(self.items), self.ready_s)

    def pixels(self) -> list[UInt8]:
        """Those of its images that have any."""
        return [image.pixels for image in self.images if image.pixels is not None]

    def fail(self, exc: Exception) -> None:
        """Answer with an exception, unless it is answered already or nobody waits any more."""
        future = self.future
        if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
            future.set_exception(exc)

    def trace_decode(self, started_s: float) -> None:
        """Tell of the decoding, which began then."""
        facts: Attributes = {
            IMAGES: len(self.images),
            "adaptsvc.unreadable_images": sum(image.pixels is None for image in self.images),
            "adaptsvc.waited_s": started_s - self.entered_s,  # for a thread that decodes
        }
        self.trace.measured("decode", started_s, self.ready_s, facts)
