"""Six signals that say whether a stream still is what a reference is made of; numpy only.

It knows nothing of models, versions or streams. What it is told of an image comes from a model that does
not change, so that a signal moves because the images do. Each signal has two sides. One describes: how far
the most recent images are from the reference. The other one alarms, by `adaptsvc.trust.sequential`, and
looks after every image.

The reference is cut in two at random. What a signal learns (neighbours, axes, bins) comes from one half, and
the ranks begin with the other, for which it was not made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from adaptsvc.trust.sequential import Bets, ChangeDetector, quantile_edges
from adaptsvc.trust.two_sample import (
    class_difference,
    distribution_difference,
    energy_difference,
    share_difference,
    stability_index,
)
from adaptsvc.types import Float32, Float64

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
DIMENSIONS = 64  # distances keep to a few per cent, and a state does not grow with the model
AXES = 16
PRIOR_STEPS = 50
LEAST_REFERENCE, LEAST_RECENT = 32, 16
ACCEPTED = 0.95  # share of the reference that is not called unknown
YES_OR_NO = 0.5
SEEDS = 6  # one for each signal


@dataclass(frozen=True, slots=True)
class Looks:
    """What is kept of N images.

    Attributes:
        sketch: (N, P) float32, their embeddings in fewer dimensions.
        confidence: (N,) of the chosen class, in [0, 1].
        entropy: (N,) of the probabilities, in nats.
        ood: (N,) score, higher is less like any known class.
        chosen: (N,) index of the chosen class.
    """

    sketch: Float32
    confidence: Float64
    entropy: Float64
    ood: Float64
    chosen: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, some: slice | npt.NDArray[np.int64]) -> Looks:
        return Looks(*(getattr(self, each.name)[some] for each in fields(self)))

    def then(self, later: Looks) -> Looks:
        """These images and later ones."""
        pairs = ((getattr(self, e.name), getattr(later, e.name)) for e in fields(self))
        return Looks(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Recent images against the reference.

    Attributes:
        value: of the recent images.
        reference_value: the same of the reference.
        effect: how far they are apart, in about [0, 1].
        p_value: of this one look, in [0, 1].
    """

    value: float
    reference_value: float
    effect: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Limits:
    """How drift is watched.

    Attributes:
        reference_images: that a reference is made of, at most.
        recent_images: that are compared with it.
        images_per_false_alarm: of one signal, at least, on average.
        classes: how many there are.
        seed: of every draw.
    """

    reference_images: int = 512
    recent_images: int = 128
    images_per_false_alarm: int = 60_000
    classes: int = 2
    seed: int = 0


def sketch(embeddings: Float32) -> Float32:
    """Embeddings (N, D) as (N, P): at most DIMENSIONS, by a fixed random projection.

    Reference: Johnson & Lindenstrauss, "Extensions of Lipschitz Mappings into a Hilbert Space", 1984.
    """
    if (width := embeddings.shape[1]) <= DIMENSIONS:
        return embeddings.astype(np.float32)
    matrix = np.random.default_rng(width).normal(0, DIMENSIONS**-0.5, (width, DIMENSIONS))
    return (embeddings @ matrix.astype(np.float32)).astype(np.float32)


def looks_of(embeddings: Float32, probabilities: Float64, ood: Float64) -> Looks:
    """What is kept of images with unit embeddings (N, D), probabilities (N, C) and OOD scores (N,)."""
    p = np.where(probabilities > 0, probabilities, 1.0)
    return Looks(
        sketch=sketch(embeddings),
        confidence=probabilities.max(axis=1),
        entropy=-(p * np.log(p)).sum(axis=1),
        ood=np.asarray(ood, np.float64),
        chosen=probabilities.argmax(axis=1),
    )


def principal_axes(points: Float32) -> Float64:
    """The directions (P, K) in which points (N, P) vary most, at most AXES of them, of length 1."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    axes: Float64 = np.linalg.svd(centred, full_matrices=False)[2][:AXES].T
    largest = np.abs(axes).argmax(axis=0)  # its sign is a matter of chance: the same everywhere
    signs: Float64 = np.sign(axes[largest, np.arange(axes.shape[1])])
    return axes * signs


class Signal:
    """One side of the stream. Use `update` for each image in turn, and read its properties.

    Args:
        detector: that alarms.
        scores: what it is given of images (N): (N, J).
        compare: reference and recent images, described.
    """

    def __init__(
        self,
        detector: ChangeDetector,
        scores: Callable[[Looks], Float64],
        compare: Callable[[Looks, Looks], Comparison],
    ) -> None:
        self.detector = detector
        self.compare = compare
        self.scores = scores

    def update(self, looks: Looks) -> None:
        """Take in images, in their order."""
        for row in self.scores(looks):
            self.detector.update(row)

    @property
    def statistic(self) -> float:
        """Evidence of a change, in nats."""
        return self.detector.statistic

    @property
    def threshold(self) -> float:
        """At which it is an alarm."""
        return self.detector.threshold

    @property
    def alarm(self) -> bool:
        """Whether it is one."""
        return self.detector.alarm


def signals(reference: Looks, limits: Limits, seed: int) -> dict[str, Signal]:
    """The signals of a stream, which begins after the reference; all but that of decoding.

    Args:
        reference: at least LEAST_REFERENCE images.
        limits: of the false alarms.
        seed: of the halves and of every draw.
    """
    order = np.random.default_rng((limits.seed, seed)).permutation(len(reference))
    learned, held = reference[order[: len(order) // 2]], reference[order[len(order) // 2 :]]
    points, axes = learned.sketch.astype(np.float64), principal_axes(learned.sketch)
    yes_or_no = np.full((limits.classes, 1), YES_OR_NO)

    def places(looks: Looks) -> Float64:
        sketched = looks.sketch.astype(np.float64)
        # The second: those that it was learned from have themselves as the nearest.
        near = np.partition(cdist(sketched, points), 1, axis=1)[:, 1]
        return np.column_stack([near, sketched @ axes])

    def classes(looks: Looks) -> Float64:
        chosen: Float64 = (looks.chosen[:, None] == np.arange(limits.classes)).astype(np.float64)
        return chosen

    numbers: dict[str, tuple[Callable[[Looks], Float64], Callable[[Looks, Looks], Comparison]]] = {
        "embedding": (places, _compare_places),
        "confidence": (lambda looks: looks.confidence[:, None], _compare_confidence),
        "entropy": (lambda looks: looks.entropy[:, None], _compare_entropy),
        "ood": (lambda looks: looks.ood[:, None], _compare_ood),
    }
    found = {}
    for place, (name, (scores, compare)) in enumerate(numbers.items()):
        edges = quantile_edges(scores(learned))
        detector = _detector(edges, scores(held), limits, seed=SEEDS * seed + place)
        found[name] = Signal(detector, scores, compare)
    counted = _detector(yes_or_no, classes(reference), limits, seed=SEEDS * seed + 4, bets="rare")
    compare_classes = _compare_classes(limits.classes)
    found["classes"] = Signal(counted, classes, compare_classes)
    return found


def decode_signal(failed: int, reference: int, limits: Limits, seed: int) -> ChangeDetector:
    """What alarms when more images than before cannot be decoded; told 1 for each that cannot, else 0."""
    flags = np.zeros((reference, 1))
    flags[:failed] = 1
    return _detector(np.full((1, 1), YES_OR_NO), flags, limits, seed=SEEDS * seed + 5, bets="rare")


def compare_decoding(reference: tuple[int, int], recent: tuple[int, int]) -> Comparison:
    """How many of how many images could not be decoded, in the reference and recently."""
    found = share_difference(reference, recent)
    return Comparison(
        recent[0] / recent[1], reference[0] / reference[1], found.effect, found.p_value
    )


def _detector(
    edges: Float64, held: Float64, limits: Limits, *, seed: int, bets: Bets = "shift"
) -> ChangeDetector:
    return ChangeDetector(
        edges,
        held,
        bets=bets,
        images_per_false_alarm=limits.images_per_false_alarm,
        seed=limits.seed + seed,
    )


def _compare_places(reference: Looks, recent: Looks) -> Comparison:
    found = energy_difference(reference.sketch.astype(np.float64), recent.sketch.astype(np.float64))
    return Comparison(found.distance, 0.0, found.effect, found.p_value)


def _compare_means(first: Float64, second: Float64) -> Comparison:
    found = distribution_difference(first, second)
    return Comparison(float(second.mean()), float(first.mean()), found.effect, found.p_value)


def _compare_confidence(reference: Looks, recent: Looks) -> Comparison:
    return _compare_means(reference.confidence, recent.confidence)


def _compare_entropy(reference: Looks, recent: Looks) -> Comparison:
    return _compare_means(reference.entropy, recent.entropy)


def _compare_ood(reference: Looks, recent: Looks) -> Comparison:
    """Shares over the score that 95 % of the reference are under; distance and p-value of the scores."""
    limit = float(np.quantile(reference.ood, ACCEPTED))
    found = distribution_difference(reference.ood, recent.ood)
    before, now = float((reference.ood > limit).mean()), float((recent.ood > limit).mean())
    return Comparison(now, before, found.effect, found.p_value)


def _compare_classes(classes: int) -> Callable[[Looks, Looks], Comparison]:
    def compare(reference: Looks, recent: Looks) -> Comparison:
        first, second = counts(reference, classes), counts(recent, classes)
        found = class_difference(first, second)
        return Comparison(stability_index(first, second), 0.0, found.effect, found.p_value)

    return compare


def class_prior(zero_shot: Float64) -> Float64:
    """How often each class is in the images, as their (N, C) probabilities make it most likely: (C,), sum 1.

    Expectation maximisation from equal shares. Counting choices would find several classes in images of one
    that is often taken for others; here what many images hold possible explains those that choose another.

    Reference: Saerens, Latinne & Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities", Neural Computation 2002.
    """
    prior = np.full(zero_shot.shape[1], 1 / zero_shot.shape[1])
    for _ in range(PRIOR_STEPS):
        posterior = zero_shot * prior
        prior = (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)
    return prior


def counts(looks: Looks, classes: int) -> Float64:
    """How many images each class was chosen for: (C,)."""
    return np.bincount(looks.chosen, minlength=classes).astype(np.float64)
