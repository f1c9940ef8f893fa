"""What can be said without labels, and how far it is off: `python -m benchmarks.label_free RESULTS.jsonl`.

From the logits that `adaptsvc eval` keeps: the ECE of each way to choose a temperature, and the error of each
estimate of the accuracy, some with a few labels for comparison. Means over the cells of a method.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from adaptsvc.evaluation.journal import Cell, Journal, Result
from adaptsvc.evaluation.measure import UNKNOWN
from adaptsvc.trust.calibration import (
    expected_calibration_error,
    fit_temperature,
    softening_temperature,
    softmax,
    temperature_for_confidence,
    temperature_for_entropy,
)
from adaptsvc.trust.estimate import agreement, average_confidence, estimate_accuracy
from adaptsvc.types import Float64

ZERO_SHOT = "zero-shot"
FEW = 30  # labels, as many as the guard asks for by default


@dataclass(frozen=True, slots=True)
class Pair:
    """A cell and the zero-shot cell of the same images.

    Attributes:
        window: (M, C) logits of the images adapted to.
        window_before: the same of the zero-shot model.
        test: (N, C) logits of the test half.
        labels: (N,) of the test half, UNKNOWN where the class is none of the C.
    """

    window: Float64
    window_before: Float64
    test: Float64
    labels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, result: Result, before: Result) -> Pair:
        """From two results of the same domain, setting and seed."""
        answers = result.answers
        return cls(
            np.array(answers.window),
            np.array(before.answers.window),
            np.array(answers.logits),
            np.array(answers.label),
        )

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(N,) where the class is one of the C."""
        found: npt.NDArray[np.bool_] = self.labels != UNKNOWN
        return found


Figure = Callable[[Pair], float]


def few(pair: Pair) -> Pair:
    """The pair with FEW of the known test images, drawn at random, always the same ones."""
    return replace(pair, test=pair.test[_drawn(pair)[0]], labels=pair.labels[_drawn(pair)[0]])


def rest(pair: Pair) -> Pair:
    """The pair with the other known test images."""
    return replace(pair, test=pair.test[_drawn(pair)[1]], labels=pair.labels[_drawn(pair)[1]])


def _drawn(pair: Pair) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(pair.known))
    return shuffled[:FEW], shuffled[FEW:]


def ece_at(pair: Pair, temperature: float) -> float:
    """ECE of the known test images at a temperature."""
    logits, labels = pair.test[pair.known], pair.labels[pair.known]
    correct = (logits.argmax(-1) == labels).astype(np.float64)
    return expected_calibration_error(softmax(logits, temperature).max(-1), correct)


def entropy(probabilities: Float64) -> float:
    """Mean entropy in nats."""
    return float(-(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(-1).mean())


TEMPERATURES: Mapping[str, Figure] = {
    "left alone (1)": lambda p: ece_at(p, 1.0),
    "mean confidence of zero-shot": lambda p: ece_at(
        p, temperature_for_confidence(p.window, average_confidence(softmax(p.window_before)))
    ),
    "the same, but not under 1": lambda p: ece_at(
        p, softening_temperature(p.window, average_confidence(softmax(p.window_before)))
    ),
    "mean entropy of zero-shot": lambda p: ece_at(
        p, temperature_for_entropy(p.window, entropy(softmax(p.window_before)))
    ),
    "agreement with zero-shot": lambda p: ece_at(
        p,
        temperature_for_confidence(
            p.window, agreement(softmax(p.window), softmax(p.window_before))
        ),
    ),
    f"fitted on {FEW} labels, ECE of the rest": lambda p: ece_at(
        rest(p), fit_temperature(few(p).test, few(p).labels)
    ),
    "fitted on the test labels": lambda p: ece_at(
        p, fit_temperature(p.test[p.known], p.labels[p.known])
    ),
}


def accuracy(pair: Pair) -> float:
    """Of the known test images."""
    return float((pair.test[pair.known].argmax(-1) == pair.labels[pair.known]).mean())


def held(pair: Pair) -> Float64:
    """Window probabilities at the temperature that a version would be published with."""
    target = average_confidence(softmax(pair.window_before))
    return softmax(pair.window, softening_temperature(pair.window, target))


ESTIMATES: Mapping[str, Figure] = {
    "mean confidence, T = 1": lambda p: average_confidence(softmax(p.window)) - accuracy(p),
    "zero-shot's mean confidence": lambda p: (
        average_confidence(softmax(p.window_before)) - accuracy(p)
    ),
    "as published": lambda p: (
        estimate_accuracy(held(p), softmax(p.window_before)).accuracy - accuracy(p)
    ),
    "agreement with zero-shot": lambda p: (
        agreement(softmax(p.window), softmax(p.window_before)) - accuracy(p)
    ),
    f"mean confidence, T by {FEW} labels": lambda p: (
        average_confidence(softmax(rest(p).test, fit_temperature(few(p).test, few(p).labels)))
        - accuracy(rest(p))
    ),
    f"accuracy of {FEW} labels": lambda p: accuracy(few(p)) - accuracy(rest(p)),
}


def pairs(results: Mapping[Cell, Result]) -> dict[str, list[Pair]]:
    """The cells of each method beside the zero-shot cell of the same images."""
    before = {
        (c.domain, c.setting, c.seed): result
        for c, result in results.items()
        if c.method == ZERO_SHOT
    }
    found: dict[str, list[Pair]] = defaultdict(list)
    for cell, result in results.items():
        base = before.get((cell.domain, cell.setting, cell.seed))
        if base is not None and len(base.answers.window) == len(result.answers.window):
            found[cell.method].append(Pair.of(result, base))
    return found


def table(title: str, figures: Mapping[str, Figure], methods: Mapping[str, list[Pair]]) -> Table:
    """Mean and deviation over the cells: rows are figures, columns methods."""
    made = Table(title=title)
    made.add_column("")
    for name, cells in methods.items():
        made.add_column(f"{name} ({len(cells)})", justify="right")
    for name, figure in figures.items():
        made.add_row(name, *(_cell(figure(pair) for pair in cells) for cells in methods.values()))
    return made


def _cell(values: Iterable[float]) -> str:
    found = list(values)
    return f"{mean(found):.3f} ±{stdev(found) if len(found) > 1 else 0:.3f}"


def main() -> None:
    """Read, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results.jsonl of adaptsvc eval")
    options = parser.parse_args()
    methods = pairs(Journal(options.results).results)
    console = Console()
    console.print(table("ECE, by how the temperature is chosen", TEMPERATURES, methods))
    console.print(table("estimated minus true accuracy", ESTIMATES, methods))


if __name__ == "__main__":
    main()
