"""How many labels it takes until they are believed, and how often false ones are.

`python -m benchmarks.believed_labels RESULTS.jsonl`, where the results are of `adaptsvc eval FOLDER --method
zero-shot --setting closed`: of each cell's test images of known classes some are drawn again and again and
labeled in several ways; the table has the share of draws that `judge_labels` believes.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from adaptsvc.config import Settings
from adaptsvc.evaluation.journal import Journal, Result
from adaptsvc.evaluation.measure import UNKNOWN
from adaptsvc.evidence import guard_limits
from adaptsvc.trust.calibration import softmax
from adaptsvc.trust.guard import judge_labels
from adaptsvc.types import Float64

COUNTS = (16, 32, 64)  # 64 start a round
DRAWS = 100  # of each cell
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Test images of known classes: what zero-shot says (N, C), and the truth (N,)."""

    zero_shot: Float64
    truth: Labels

    @classmethod
    def of(cls, result: Result) -> Pool:
        """From a zero-shot cell."""
        logits, truth = np.array(result.answers.logits), np.array(result.answers.label)
        return cls(softmax(logits[truth != UNKNOWN]), truth[truth != UNKNOWN])

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """(N,) where zero-shot is."""
        found: npt.NDArray[np.bool_] = self.zero_shot.argmax(axis=-1) != self.truth
        return found


Draw = Callable[[Pool, int, np.random.Generator], tuple[Labels, Labels]]  # images and their labels


def true(pool: Pool, count: int, generator: np.random.Generator) -> tuple[Labels, Labels]:
    """Images with what they show."""
    drawn = generator.choice(len(pool.truth), count, replace=False)
    return drawn, pool.truth[drawn]


def turned(pool: Pool, count: int, generator: np.random.Generator) -> tuple[Labels, Labels]:
    """Images with the class after the one they show."""
    drawn, labels = true(pool, count, generator)
    return drawn, (labels + 1) % pool.zero_shot.shape[1]


def unrelated(pool: Pool, count: int, generator: np.random.Generator) -> tuple[Labels, Labels]:
    """Images with the labels of others."""
    drawn, labels = true(pool, count, generator)
    return drawn, generator.permutation(labels)


def corrections(pool: Pool, count: int, generator: np.random.Generator) -> tuple[Labels, Labels]:
    """Images that zero-shot gets wrong, as many as there are, with what they show."""
    wrong = np.flatnonzero(pool.wrong)
    drawn = generator.choice(wrong, min(count, len(wrong)), replace=False)
    return drawn, pool.truth[drawn]


def mostly_corrections(
    pool: Pool, count: int, generator: np.random.Generator
) -> tuple[Labels, Labels]:
    """The same, but one in four is of an image that it gets right."""
    wrong, labels = corrections(pool, count - count // 4, generator)
    right = generator.choice(np.flatnonzero(~pool.wrong), count // 4)
    return np.concatenate([wrong, right]), np.concatenate([labels, pool.truth[right]])


KINDS: Mapping[str, Draw] = {
    "true": true,
    "class after": turned,
    "of other images": unrelated,
    "true, of mistakes": corrections,
    "true, 3 in 4 of mistakes": mostly_corrections,
}


def believed(pools: Iterable[Pool], draw: Draw, count: int) -> float:
    """Share of the draws that are believed by the default settings."""
    generator, limits = np.random.default_rng(0), guard_limits(Settings().guard)
    found = []
    for pool in pools:
        for _ in range(DRAWS):
            images, labels = draw(pool, count, generator)
            found.append(not judge_labels(pool.zero_shot[images], labels, limits))
    return mean(found)


def main() -> None:
    """Draw, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    pools: dict[str, list[Pool]] = defaultdict(list)
    for path in parser.parse_args().results:
        for cell, result in Journal(path).results.items():
            if (cell.method, cell.setting) == ("zero-shot", "closed"):
                pools[cell.domain].append(Pool.of(result))
    table = Table("domain", "cells", "labels", *KINDS)
    for domain, cells in pools.items():
        for count in COUNTS:
            shares = (f"{believed(cells, draw, count):.2f}" for draw in KINDS.values())
            table.add_row(domain, str(len(cells)), str(count), *shares)
    Console().print(table)


if __name__ == "__main__":
    main()
