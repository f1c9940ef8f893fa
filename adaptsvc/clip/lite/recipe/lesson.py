"""What the student is taught and what is kept from it: names, templates, held-out nouns and classes.

Knows the choice of words, and nothing of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from open_clip import IMAGENET_CLASSNAMES

from .nouns import Noun

PROMPT = "a photo of a {}."
# The product asks in the first way only; the others keep the student from leaning on the words around
# the name.
TEMPLATES: dict[str, float] = {
    PROMPT: 0.50,
    "{}": 0.15,
    "a photo of the {}.": 0.05,
    "a photo of {}.": 0.05,
    "a picture of a {}.": 0.05,
    "an image of a {}": 0.04,
    "a drawing of a {}.": 0.04,
    "a sketch of a {}.": 0.04,
    "a painting of a {}.": 0.04,
    "a cartoon of a {}.": 0.04,
}
IMAGENET_NAMES: tuple[str, ...] = tuple(IMAGENET_CLASSNAMES)
HELD_OUT_CLASSES = 100
HELD_OUT_NOUNS = 2000
# Times per epoch. ImageNet names make up an eighth of what is met: only their targets are known, the others
# are the regression's guess.
IMAGENET_REPEATS = 14
EVERYDAY_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Syllabus:
    """Names in one list, ImageNet's first, the times each is met in an epoch, and which are kept back."""

    names: tuple[str, ...]
    times: NDArray[np.int64]
    held_out: NDArray[np.bool_]

    @property
    def held_out_classes(self) -> NDArray[np.int64]:
        """Indices of the ImageNet classes kept back."""
        return np.flatnonzero(self.held_out[: len(IMAGENET_NAMES)])

    @property
    def held_out_nouns(self) -> NDArray[np.int64]:
        """Indices of the other names kept back."""
        return len(IMAGENET_NAMES) + np.flatnonzero(self.held_out[len(IMAGENET_NAMES) :])

    @property
    def taught(self) -> NDArray[np.int64]:
        """Times per epoch with nothing for what is held out."""
        return np.where(self.held_out, 0, self.times)


def plan(nouns: Sequence[Noun], *, seed: int) -> Syllabus:
    """Hold out classes and nouns; no ImageNet name stays among the nouns, held out or not."""
    rng = np.random.default_rng(seed)
    known = {name.lower() for name in IMAGENET_NAMES}
    others = [noun for noun in nouns if noun.name.lower() not in known]
    names = (*IMAGENET_NAMES, *(noun.name for noun in others))
    words = [EVERYDAY_REPEATS if noun.count > 0 else 1 for noun in others]
    held_out = np.zeros(len(names), dtype=bool)
    held_out[rng.choice(len(IMAGENET_NAMES), HELD_OUT_CLASSES, replace=False)] = True
    held_out[len(IMAGENET_NAMES) + rng.choice(len(others), HELD_OUT_NOUNS, replace=False)] = True
    return Syllabus(names, np.array([IMAGENET_REPEATS] * len(IMAGENET_NAMES) + words), held_out)
