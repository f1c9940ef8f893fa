"""What a stream brings and in which order, from the images of a domain's adapting half.

It knows nothing of models, logs or rounds. Every kind sends as many images as `ordinary` does on the same
domain; one with fewer pictures sends them again under new ids.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.random import Generator
from PIL import Image

from adaptsvc.evaluation.data import Entry

Stream: TypeAlias = Literal[
    "ordinary",
    "class-order",
    "one-class",
    "all-unknown",
    "noise",
    "flipped-labels",
    "domains",
]
STREAMS: tuple[Stream, ...] = get_args(Stream)
FASTEST = 1  # of zlib: noise cannot be compressed
SPREAD = 50.0  # standard deviation of Gaussian noise, in grey levels


@dataclass(frozen=True, slots=True)
class Noise:
    """A picture of nothing, by the seed it is drawn from; even ones are uniform, odd ones Gaussian."""

    seed: int


Picture: TypeAlias = Entry | Noise


@dataclass(frozen=True, slots=True)
class Sending:
    """One image to send.

    Attributes:
        key: unique in its stream.
        label: the class its sender names, right or wrong; empty when no label is sent.
    """

    key: str
    picture: Picture
    label: str = ""


@dataclass(frozen=True, slots=True)
class Material:
    """The adapting half of a domain.

    Attributes:
        domain: its name.
        known: images of the known classes.
        unknown: images of any other.
        classes: the known classes, in the model's order.
    """

    domain: str
    known: tuple[Entry, ...]
    unknown: tuple[Entry, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """How much to draw, and with which numbers.

    Attributes:
        repeat: how often an ordinary stream sends each image, at least 1.
        seed: of the order, the noise and the flipped labels; its class number is the one of `one-class`.
    """

    repeat: int
    seed: int


def sendings(
    stream: Stream, parts: Sequence[Material], draw: Draw
) -> tuple[tuple[Sending, ...], ...]:
    """Everything a stream sends, part by part.

    Args:
        stream: which kind.
        parts: one domain; the domains in turn for `domains`, where one may come again.
        draw: how much, and the seed.
    """
    return tuple(
        _part(stream, number, material, draw, np.random.default_rng([draw.seed, number]))
        for number, material in enumerate(parts)
    )


def again(entries: Sequence[Entry], count: int, generator: Generator) -> Iterator[Entry]:
    """`count` of the entries at random, each once before any comes again; none of none.

    Example:
        >>> cat, dog = Entry("1.png", "cat"), Entry("2.png", "dog")
        >>> drawn = [e.name for e in again([cat, dog], 4, np.random.default_rng(0))]
        >>> sorted(drawn[:2]), sorted(drawn[2:])
        (['cat', 'dog'], ['cat', 'dog'])
    """
    rounds = (entries[k] for _ in itertools.count() for k in generator.permutation(len(entries)))
    return itertools.islice(rounds, count if entries else 0)


def flip(classes: Sequence[str], generator: Generator) -> dict[str, str]:
    """Every class to another one, no two to the same: one random cycle through all of them.

    Example:
        >>> flip(["cat", "dog"], np.random.default_rng(0))
        {'cat': 'dog', 'dog': 'cat'}
    """
    order = [classes[k] for k in generator.permutation(len(classes))]
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return {name: following[name] for name in classes}


def noise_png(noise: Noise, side: int) -> bytes:
    """A noise picture, encoded, `side` pixels wide and high."""
    generator, shape = np.random.default_rng(noise.seed), (side, side, 3)
    if noise.seed % 2:
        pixels = generator.normal(127.5, SPREAD, shape).clip(0, 255).astype(np.uint8)
    else:
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=FASTEST)
    return buffer.getvalue()


def _part(
    stream: Stream, number: int, material: Material, draw: Draw, generator: Generator
) -> tuple[Sending, ...]:
    pictures = list(PICTURES[stream](material, draw, generator))
    flipped = flip(material.classes, generator) if stream == "flipped-labels" else {}
    return tuple(
        Sending(
            f"{number}-{material.domain}-{place:06d}",
            picture,
            flipped[picture.name] if flipped and isinstance(picture, Entry) else "",
        )
        for place, picture in enumerate(pictures)
    )


def _ordinary(material: Material, draw: Draw, generator: Generator) -> Iterator[Picture]:
    return again(material.known, draw.repeat * len(material.known), generator)


def _class_order(material: Material, draw: Draw, generator: Generator) -> Iterator[Picture]:
    """All of a class, its repetitions too, before the next one."""
    for name in material.classes:
        one = [entry for entry in material.known if entry.name == name]
        yield from again(one, draw.repeat * len(one), generator)


def _one_class(material: Material, draw: Draw, generator: Generator) -> Iterator[Picture]:
    present = {entry.name for entry in material.known}
    names = [name for name in material.classes if name in present]
    chosen = names[draw.seed % len(names)]
    one = [entry for entry in material.known if entry.name == chosen]
    return again(one, draw.repeat * len(material.known), generator)


def _all_unknown(material: Material, draw: Draw, generator: Generator) -> Iterator[Picture]:
    return again(material.unknown, draw.repeat * len(material.known), generator)


def _noise(material: Material, draw: Draw, generator: Generator) -> Iterator[Picture]:
    first = int(generator.integers(2**32))
    return (Noise(first + k) for k in range(draw.repeat * len(material.known)))


PICTURES: Mapping[Stream, Callable[[Material, Draw, Generator], Iterator[Picture]]] = {
    "ordinary": _ordinary,
    "class-order": _class_order,
    "one-class": _one_class,
    "all-unknown": _all_unknown,
    "noise": _noise,
    "flipped-labels": _ordinary,
    "domains": _ordinary,
}
