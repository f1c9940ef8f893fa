"""Which images are learned from and which are tested on; it knows nothing of files, pixels or models.

The model is always given the same list L of known class names. A setting says which classes U are present
in the unlabeled half; the test half is the same in all of them.

Reference: Liang et al., "Realistic Unsupervised CLIP Fine-tuning with Universal Entropy Optimization",
ICML 2024. Deviation: the paper tests on images it also adapts to; here the halves are disjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from adaptsvc.errors import ConfigError

Setting: TypeAlias = Literal["closed", "partial", "open", "open-partial"]
Indices: TypeAlias = npt.NDArray[np.int64]
SETTINGS: tuple[Setting, ...] = get_args(Setting)
OPEN: tuple[Setting, ...] = ("open", "open-partial")
PARTIAL: tuple[Setting, ...] = ("partial", "open-partial")


@dataclass(frozen=True, slots=True)
class Halves:
    """Positions of the images to adapt to and of those to test on; disjoint."""

    adapt: Indices
    test: Indices


def setting(name: str) -> Setting:
    """A setting by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    for known in SETTINGS:
        if known == name:
            return known
    raise ConfigError(f"--setting names {name!r}; choose from {', '.join(SETTINGS)}")


def present_classes(
    setting: Setting, known: Sequence[str], others: Sequence[str]
) -> tuple[str, ...]:
    """U, the classes in the unlabeled data.

    Args:
        setting: closed U = L, partial U = first half of L, open U = L and all others, open-partial
            U = first half of L and all others.
        known: L, in its order.
        others: every other class.

    Example:
        >>> present_classes("open-partial", ["ant", "bee", "cat"], ["dog"])
        ('ant', 'bee', 'dog')
    """
    kept = known[: -(-len(known) // 2)] if setting in PARTIAL else known
    return (*kept, *(others if setting in OPEN else ()))


def labeled_part(labels: Indices, chosen: Indices, share: float, seed: int) -> Indices:
    """The images whose label is given away: a share of each known class, at least one of each.

    Args:
        labels: (N,) of all images, below 0 where the class is unknown.
        chosen: positions of the images to draw from.
        share: in (0, 1].
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    kept = []
    for label in np.unique(labels[chosen][labels[chosen] >= 0]):
        shuffled = generator.permutation(chosen[labels[chosen] == label])
        kept.append(shuffled[: max(1, round(share * len(shuffled)))])
    return np.sort(np.concatenate(kept)) if kept else chosen[:0]


def split(names: Sequence[str], seed: int) -> Halves:
    """Halve the images class by class, at random; of an odd number the test half gets one more.

    Args:
        names: (N,) the class of each image.
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    array = np.array(names)
    adapt, test = [], []
    for name in sorted(set(names)):
        shuffled = generator.permutation(np.flatnonzero(array == name))
        middle = len(shuffled) // 2
        adapt.append(shuffled[:middle])
        test.append(shuffled[middle:])
    return Halves(np.sort(np.concatenate(adapt)), np.sort(np.concatenate(test)))
