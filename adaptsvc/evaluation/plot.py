"""The evaluation's picture: reliability, risk against coverage, and one confusion matrix.

It knows nothing of models or files but the one it writes. It needs matplotlib, of the extra `report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptsvc.evaluation.journal import Result
from adaptsvc.evaluation.measure import UNKNOWN
from adaptsvc.trust.calibration import BINS, expected_calibration_error
from adaptsvc.trust.selective import risk_coverage
from adaptsvc.types import Float64

COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]
ZERO_SHOT, GRAY = "zero-shot", "#888888"
LARGEST_DOT = 250  # square points, of a bin that holds every image
MOST_NUMBERS = 12  # more classes than this and the numbers in the matrix cannot be read


@dataclass(frozen=True, slots=True)
class Pool:
    """The answers of several cells, one after the other; arrays (N,)."""

    label: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int64]
    confidence: Float64

    @classmethod
    def of(cls, results: Sequence[Result]) -> Self:
        """Of at least one result."""
        answers = [result.answers for result in results]
        return cls(
            np.concatenate([np.array(a.label, np.int64) for a in answers]),
            np.concatenate([np.array(a.prediction, np.int64) for a in answers]),
            np.concatenate([np.array(a.confidence) for a in answers]),
        )

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(N,) which are of a known class."""
        result: npt.NDArray[np.bool_] = self.label != UNKNOWN
        return result

    @property
    def correct(self) -> Float64:
        """Of the known: 1 where right."""
        result: Float64 = (self.prediction == self.label)[self.known].astype(np.float64)
        return result


def draw(results: Sequence[Result], known: Sequence[str], path: Path, title: str) -> None:
    """Write the picture of results, the cells of each method pooled; the matrix is the last method's."""
    methods = list(dict.fromkeys(result.cell.method for result in results))
    pools = {m: Pool.of([r for r in results if r.cell.method == m]) for m in methods}
    figure = Figure(figsize=(16, 5.4), layout="constrained")
    axes = figure.subplots(1, 3)
    _reliability(axes[0], pools)
    _risk_coverage(axes[1], pools)
    _confusion(axes[2], confusion(pools[methods[-1]], len(known)), known, methods[-1])
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def reliability(pool: Pool) -> tuple[Float64, Float64, Float64]:
    """Mean confidence, accuracy and share of the known images in each of 15 bins that is not empty."""
    confidence, correct = pool.confidence[pool.known], pool.correct
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    filled, counts = np.unique(index, return_counts=True)
    mean = [confidence[index == b].mean() for b in filled]
    accuracy = [correct[index == b].mean() for b in filled]
    return np.array(mean), np.array(accuracy), counts / len(index)


def confusion(pool: Pool, classes: int) -> Float64:
    """Predictions (C + 1, C) by true class, rows summing to 1; the last row is the unknown, 0 if none."""
    counts = np.zeros((classes + 1, classes))
    np.add.at(counts, (pool.label, pool.prediction), 1)  # UNKNOWN, -1, is the last row
    result: Float64 = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return result


def _style(method: str, index: int) -> dict[str, Any]:
    """How a method is drawn: zero-shot gray, dashed and on top, so that an equal curve is seen below it."""
    if method == ZERO_SHOT:
        return {"color": GRAY, "linestyle": "--", "zorder": 3}
    return {"color": COLOURS[index % len(COLOURS)]}


def _reliability(axes: Axes, pools: Mapping[str, Pool]) -> None:
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    for index, (method, pool) in enumerate(pools.items()):
        ece = expected_calibration_error(pool.confidence[pool.known], pool.correct)
        label = f"{method}, ECE {100 * ece:.1f} %"
        confidence, accuracy, share = reliability(pool)
        style = _style(method, index)
        axes.plot(confidence, accuracy, label=label, **style)
        axes.scatter(confidence, accuracy, LARGEST_DOT * share, color=style["color"], clip_on=False)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.set_title("Reliability, known classes (a dot's area: share of images)")
    axes.legend(fontsize="small")


def _risk_coverage(axes: Axes, pools: Mapping[str, Pool]) -> None:
    for index, (method, pool) in enumerate(pools.items()):
        coverage, risk = risk_coverage(pool.confidence[pool.known], pool.correct)
        label = f"{method}, mean risk {100 * risk.mean():.1f} %"
        axes.plot(coverage, risk, label=label, **_style(method, index))
    axes.set(xlabel="share answered, surest first", ylabel="share of those wrong", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.set_title("Risk against coverage, known classes")
    axes.legend(fontsize="small")


def _confusion(axes: Axes, matrix: Float64, known: Sequence[str], method: str) -> None:
    rows = [*known, "unknown"] if matrix[-1].any() else list(known)
    matrix = matrix[: len(rows)]
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(known)), known, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="predicted", ylabel="true", title=f"{method}: share of each true class")
    if len(known) > MOST_NUMBERS:
        return
    for (row, column), share in np.ndenumerate(matrix):
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour)
