"""The demo's report: one PNG with four plots, and the summary as JSON. It knows nothing of the service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptsvc.demo.measure import Scores
from adaptsvc.trust.calibration import BINS

ZERO_SHOT, SERVING = "#888888", "#1f77b4"


@dataclass(slots=True)
class Journal:
    """What happened, as it happened.

    Attributes:
        scores: of every version measured; the first is the frozen zero-shot model.
        learned: images read from the stream when each version was made, by version.
        latencies: (seconds since the start, seconds the request took).
        swaps: seconds since the start at which a new version first answered.
        requests: how many were sent.
        failures: what each failed request said.
        swap_ms: mean time of the swaps so far.
    """

    scores: list[Scores] = field(default_factory=list)
    learned: dict[int, int] = field(default_factory=dict)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    swaps: list[float] = field(default_factory=list)
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    swap_ms: float = float("nan")

    def summary(self) -> dict[str, Any]:
        """The figures of the summary table."""
        first, last = self.scores[0], self.scores[-1]
        return {
            "versions_promoted": last.version,
            "images_learned_from": self.learned.get(last.version, 0),
            "accuracy_zero_shot": first.accuracy,
            "accuracy": last.accuracy,
            "accuracy_gain_points": 100 * (last.accuracy - first.accuracy),
            "ece_zero_shot": first.ece,
            "ece": last.ece,
            "ood_auroc_zero_shot": first.ood_auroc,
            "ood_auroc": last.ood_auroc,
            "ood_auroc_gain_points": 100 * (last.ood_auroc - first.ood_auroc),
            "held_out_known": len(last.correct),
            "held_out_unknown": len(last.unknown_scores),
            "requests": self.requests,
            "failed_requests": len(self.failures),
            "swap_ms": self.swap_ms,
            "by_version": [
                {
                    "version": s.version,
                    "accuracy": s.accuracy,
                    "ece": s.ece,
                    "ood_auroc": s.ood_auroc,
                }
                for s in self.scores
            ],
        }


def write(journal: Journal, folder: Path, summary: dict[str, Any]) -> Path:
    """Write ``summary.json`` and ``report.png``; the path of the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    _progress(axes[0, 0], journal.scores)
    _reliability(axes[0, 1], journal.scores)
    _out_of_distribution(axes[1, 0], journal.scores)
    _latency(axes[1, 1], journal)
    gain = summary["accuracy_gain_points"]
    figure.suptitle(
        f"{summary['images_learned_from']} unlabeled images, {summary['versions_promoted']} versions: "
        f"accuracy {summary['accuracy_zero_shot']:.3f} to {summary['accuracy']:.3f} ({gain:+.1f} points)"
    )
    path = folder / "report.png"
    figure.savefig(path, dpi=100)
    return path


def _progress(axes: Axes, scores: Sequence[Scores]) -> None:
    versions = [s.version for s in scores]
    axes.plot(versions, [s.accuracy for s in scores], "o-", color=SERVING, label="accuracy")
    axes.plot(versions, [s.ood_auroc for s in scores], "s--", color="#2ca02c", label="OOD AUROC")
    axes.plot(versions, [s.ece for s in scores], "^:", color="#d62728", label="ECE")
    axes.axhline(scores[0].accuracy, color=ZERO_SHOT, linewidth=1, label="zero-shot accuracy")
    axes.set(xlabel="version", title="Held-out images, by version", ylim=(0, 1), xticks=versions)
    axes.legend()


def _reliability(axes: Axes, scores: Sequence[Scores]) -> None:
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    for s, color, name in ((scores[0], ZERO_SHOT, "zero-shot"), (scores[-1], SERVING, "serving")):
        index = np.clip(np.ceil(s.confidence * BINS).astype(int) - 1, 0, BINS - 1)
        filled = [b for b in range(BINS) if (index == b).any()]
        axes.plot(
            [s.confidence[index == b].mean() for b in filled],
            [s.correct[index == b].mean() for b in filled],
            "o-",
            color=color,
            label=f"{name}, ECE {s.ece:.3f}",
        )
    axes.set(xlabel="confidence", ylabel="accuracy", title="Reliability", xlim=(0, 1), ylim=(0, 1))
    axes.legend()


def _out_of_distribution(axes: Axes, scores: Sequence[Scores]) -> None:
    last = scores[-1]
    both = np.concatenate([last.known_scores, last.unknown_scores])
    bins = [float(edge) for edge in np.linspace(both.min(), both.max(), 41)]
    axes.hist(last.known_scores, bins, density=True, alpha=0.6, label="clothing", color=SERVING)
    axes.hist(
        last.unknown_scores, bins, density=True, alpha=0.6, label="unknown kind", color="#ff7f0e"
    )
    axes.set(
        xlabel="OOD score", ylabel="density", title=f"Serving version, AUROC {last.ood_auroc:.3f}"
    )
    axes.legend()


def _latency(axes: Axes, journal: Journal) -> None:
    at, took = np.array(journal.latencies).T
    axes.plot(at, 1000 * took, ".", markersize=2, color=SERVING)
    for index, swap in enumerate(journal.swaps):
        axes.axvline(
            swap, color="#d62728", linewidth=0.8, label="" if index else "a version swapped in"
        )
    axes.set(
        xlabel="seconds",
        ylabel="ms",
        yscale="log",
        title="Requests of one image, the worker learning",
    )
    axes.legend()
