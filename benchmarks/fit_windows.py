"""How often a window is learned from, by what its images are, and which limit tells best.

`python -m benchmarks.fit_windows FOLDER` draws windows from the images of FOLDER/domain/class, with `--known`
those classes known and without many random choices of 3 to 8. The first table has the share of windows that
`judge_window` lets pass, and what the middle one tells (`window_information`); the second one has the shares
at other limits: for another model, or other images, `guard.window_information` is where J is highest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from adaptsvc import config
from adaptsvc.config import Settings
from adaptsvc.evaluation.bench import Bench, read_pictures
from adaptsvc.evaluation.data import Tree, choose_known, prompt_name, read_tree
from adaptsvc.trust.calibration import softmax
from adaptsvc.trust.guard import window_information
from adaptsvc.types import Float64

IMAGES = 64  # of a window
CHOICES, LEAST, MOST = 150, 3, 8  # of classes that are known
LIMIT = Settings().guard.window_information
LIMITS = np.arange(0.15, 0.31, 0.01)
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Domain:
    """Its images: logits for every class there is (N, C), and the truth (N,) in 0..C-1."""

    logits: Float64
    truth: npt.NDArray[np.int64]

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.logits.shape[1])

    def window(
        self, may: Mask, known: npt.NDArray[np.int64], generator: np.random.Generator
    ) -> float:
        """What one tells, of images that may be in it, to a model of the known classes."""
        drawn = generator.choice(np.flatnonzero(may), IMAGES)
        return window_information(softmax(self.logits[np.ix_(drawn, known)]))


Kind: TypeAlias = Callable[[Domain, npt.NDArray[np.int64], np.random.Generator], Mask]


def of_classes(count: int) -> Kind:
    """Images of so many of the known classes, other ones each time."""
    return lambda domain, known, generator: np.isin(
        domain.truth, generator.choice(known, count, replace=False)
    )


KINDS: Mapping[str, Kind] = {
    "all known classes": lambda domain, known, _: np.isin(domain.truth, known),
    "and unknown ones": lambda domain, *_: np.ones_like(domain.truth, bool),
    "unknown alone": lambda domain, known, _: ~np.isin(domain.truth, known),
    "one class": of_classes(1),
    "two classes": of_classes(2),
}
Windows: TypeAlias = Mapping[str, Mapping[str, Float64]]  # what each tells, by domain and kind


def told(domain: Domain, known: npt.NDArray[np.int64] | None) -> dict[str, Float64]:
    """What windows of each kind tell, one for each choice of known classes."""
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(CHOICES):
        most = min(MOST, domain.classes - 1)
        size = generator.integers(LEAST, most + 1)
        chosen = generator.choice(domain.classes, size, replace=False) if known is None else known
        for name, kind in KINDS.items():
            may = kind(domain, chosen, generator)
            found[name].append(domain.window(may, chosen, generator))
    return {name: np.array(values) for name, values in found.items()}


def by_domain(windows: Windows) -> Table:
    """Shares that the default limit lets pass, and the medians."""
    table = Table("domain", *KINDS)
    for domain, kinds in windows.items():
        found = (f"{(w >= LIMIT).mean():.2f} ({median(w):.2f})" for w in kinds.values())
        table.add_row(domain, *found)
    return table


def by_limit(windows: Windows) -> Table:
    """Shares that each limit lets pass, mean of the domains; the best has the highest J (Youden, 1950)."""
    table = Table("limit", *KINDS, "J")
    for limit in LIMITS:
        of = {k: mean(float((w[k] >= limit).mean()) for w in windows.values()) for k in KINDS}
        right = mean((of["all known classes"], of["and unknown ones"]))
        wrong = mean((of["unknown alone"], of["one class"]))
        table.add_row(*(f"{figure:.2f}" for figure in (limit, *of.values(), right - wrong)))
    return table


def read(tree: Tree, home: Path) -> dict[str, Domain]:
    """The images of every domain as the model of the settings sees them."""
    names = tuple(prompt_name(name) for name in tree.classes)
    bench = Bench.load(config.read(home=home, classes=names))
    scale, texts = bench.start.manifest.logit_scale, bench.start.head.class_embeddings
    found = {}
    for domain, entries in tree.domains.items():
        pictures = read_pictures(bench, entries, between_images=lambda: None)
        truth = np.array([tree.classes.index(name) for name in pictures.names])
        found[domain] = Domain(scale * (pictures.embeddings @ texts.T).astype(np.float64), truth)
    return found


def main() -> None:
    """Draw, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--known", default="", help="classes, with commas; random choices without")
    options = parser.parse_args()
    tree, asked = read_tree(options.folder), [name for name in options.known.split(",") if name]
    known = np.array([tree.classes.index(name) for name in choose_known(tree, asked)])
    with TemporaryDirectory() as home:
        domains = read(tree, Path(home))
    windows = {name: told(each, known if asked else None) for name, each in domains.items()}
    for table in (by_domain(windows), by_limit(windows)):
        Console().print(table)


if __name__ == "__main__":
    main()
