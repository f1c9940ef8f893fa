"""The demo's images: Fashion-MNIST clothing, and emoji of animals, food and vehicles as the unknown kind.

It knows nothing of streams or services. The stream's labels are not in the bundle: nobody has them.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from adaptsvc.types import UInt8

BUNDLE = Path(__file__).with_name("clothes.npz")
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
UNKNOWN = -1
UNKNOWN_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as it is sent.

    Attributes:
        image_id: SHA-256 of the bytes.
        data: a PNG file.
        label: index into CLASSES, or UNKNOWN; for the stream always UNKNOWN, it is not used.
    """

    image_id: str
    data: bytes
    label: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What one run of the demo shows: what streams past, and what is held out to measure on."""

    stream: tuple[Picture, ...]
    held_out: tuple[Picture, ...]


def load_scene(seed: int, *, streamed: int, held_out: int) -> Scene:
    """A seeded choice from the bundle, in a seeded order; a tenth of each part is of unknown kind.

    Args:
        seed: of the choice and the order.
        streamed: images in the stream.
        held_out: images to measure on.
    """
    generator = np.random.default_rng(seed)
    with np.load(BUNDLE) as bundle:
        arrays = {name: bundle[name] for name in bundle.files}
    labels = arrays["held_out_labels"].astype(int)
    unlabeled = np.full(len(arrays["stream_known"]), UNKNOWN)
    return Scene(
        _mixed(arrays["stream_known"], unlabeled, arrays["stream_unknown"], streamed, generator),
        _mixed(arrays["held_out_known"], labels, arrays["held_out_unknown"], held_out, generator),
    )


def _mixed(
    known: UInt8,
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    unknown: UInt8,
    count: int,
    generator: np.random.Generator,
) -> tuple[Picture, ...]:
    unknown_count = round(count * UNKNOWN_SHARE)
    chosen = generator.permutation(len(known))[: count - unknown_count]
    strangers = generator.permutation(len(unknown))[:unknown_count]
    pictures = [_picture(known[i], int(labels[i])) for i in chosen]
    pictures += [_picture(unknown[i], UNKNOWN) for i in strangers]
    return tuple(pictures[i] for i in generator.permutation(len(pictures)))


def _picture(pixels: UInt8, label: int) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = buffer.getvalue()
    return Picture(hashlib.sha256(data).hexdigest(), data, label)
