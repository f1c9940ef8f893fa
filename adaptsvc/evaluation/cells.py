"""One cell: a method learns from its half of the images, and its candidate answers the other half.

It knows nothing of other cells, journals or tables. The candidate answers through ONNX Runtime, at
the temperature it would be published with: label-free after an unlabeled method, else inherited.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from adaptsvc.adapt.ueo import sample_weights
from adaptsvc.adapt.window import Sample
from adaptsvc.errors import AdaptsvcError, NonFiniteStepError
from adaptsvc.evaluation.bench import Bench, Pictures, embed
from adaptsvc.evaluation.journal import Answers, Cell, Result
from adaptsvc.evaluation.measure import UNKNOWN, Measured, Rule, measure
from adaptsvc.evaluation.methods import LABELED_METHODS, METHODS, Task, zero_shot
from adaptsvc.evaluation.split import Indices, labeled_part, present_classes, split
from adaptsvc.evidence import guard_limits
from adaptsvc.learner import Candidate
from adaptsvc.serving.predictor import logits_of
from adaptsvc.trust.calibration import softening_temperature, softmax
from adaptsvc.trust.guard import GuardLimits, Verdict, judge, judge_window
from adaptsvc.types import Float64

NOT_FINITE = Verdict(("not_finite",), 0.0, 0.0)
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Scene:
    """The images of a domain as one cell sees them.

    Attributes:
        pictures: all of them.
        labels: (N,) index into the known classes, or UNKNOWN.
        adapt: which to adapt to.
        test: which to test on.
    """

    pictures: Pictures
    labels: Indices
    adapt: Indices
    test: Indices


@dataclass(frozen=True, slots=True)
class Outcome:
    """A candidate, what it says of both halves, (M, C) and (N, C), and what the guard says of it."""

    candidate: Candidate
    verdict: Verdict
    temperature: float
    window_logits: Float64
    test_logits: Float64


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned from, beside what the cell says.

    Attributes:
        known: L, the class names the model is given.
        labels: share of the labels that methods with labels are given, in (0, 1].
        others: images of other domains, to learn from in place of the domain's own half; usually none.
    """

    known: tuple[str, ...]
    labels: float = 1.0
    others: Pictures | None = None


def stage(own: Pictures, lesson: Lesson, cell: Cell) -> Scene:
    """Split the images as a cell's setting, method and seed say.

    Raises:
        AdaptsvcError: fewer than 2 images to adapt to, or none of a known class to test on.
    """
    known = lesson.known
    pictures = own if lesson.others is None else own + lesson.others
    names = np.array(pictures.names)
    position = {name: index for index, name in enumerate(known)}
    labels = np.array([position.get(name, UNKNOWN) for name in pictures.names], np.int64)
    unknown = [name for name in sorted(set(pictures.names)) if name not in position]
    halves = split(own.names, cell.seed)
    source = halves.adapt if lesson.others is None else np.arange(len(own.names), len(names))
    adapt = source[np.isin(names[source], present_classes(cell.setting, known, unknown))]
    if cell.method in LABELED_METHODS:
        adapt = labeled_part(labels, adapt, lesson.labels, cell.seed)
    tested = int((labels[halves.test] != UNKNOWN).sum())
    if len(adapt) < 2 or not tested:
        raise AdaptsvcError(
            f"{cell.domain}, {cell.setting}: {len(adapt)} images to adapt to and {tested} of known classes "
            "to test on; expected at least 2 and 1: add images or leave it out"
        )
    return Scene(pictures, labels, adapt, halves.test)


def run_cell(
    bench: Bench,
    scene: Scene,
    cell: Cell,
    *,
    guard: bool,
    between_steps: Callable[[], None],
) -> Result:
    """Learn, answer, measure.

    Args:
        bench: the model.
        scene: the images, split.
        cell: which method and seed.
        guard: a window or candidate it refuses counts as zero-shot; one that is not finite always does.
        between_steps: called before each step; what it raises ends the cell.
    """
    begun = time.monotonic()
    task = _task(bench, scene, cell.seed, between_steps)
    outcome = _learn(bench, scene, task, cell.method)
    refused = outcome.verdict == NOT_FINITE or (guard and not outcome.verdict.accepted)
    shown = _answer(bench, scene, zero_shot(task)) if refused else outcome
    rule = Rule(_scale(bench), shown.temperature, bench.settings.ood.score)
    labels = scene.labels[scene.test]
    measured = measure(shown.test_logits, labels, rule)
    return Result(
        cell=cell,
        figures=measured.figures,
        reasons=outcome.verdict.reasons,
        agreement=outcome.verdict.agreement,
        marginal_entropy_nats=outcome.verdict.marginal_entropy_nats,
        refused=refused,
        losses=outcome.candidate.losses,
        adapt_images=len(scene.adapt),
        skipped_images=len(scene.pictures.skipped),
        seconds=round(time.monotonic() - begun, 3),
        answers=_answers(measured, labels, shown),
    )


def _task(bench: Bench, scene: Scene, seed: int, between_steps: Callable[[], None]) -> Task:
    cosines = scene.pictures.embeddings[scene.adapt] @ bench.start.head.class_embeddings.T
    temperature = bench.settings.learn.weight_temperature
    weights = sample_weights(torch.from_numpy(cosines), _scale(bench), temperature)
    probabilities = _zero_shot_probabilities(bench, scene).astype(np.float32)
    samples = tuple(
        Sample(str(index), scene.pictures.pixels[index], p, float(weight), ("eval", 0, int(index)))
        for index, p, weight in zip(scene.adapt, probabilities, weights, strict=True)
    )
    return Task(
        settings=bench.settings,
        ready=bench.ready,
        learner=bench.learner,
        start=bench.start,
        samples=samples,
        labels=scene.labels[scene.adapt],
        seed=seed,
        between_steps=between_steps,
    )


def _learn(bench: Bench, scene: Scene, task: Task, method: str) -> Outcome:
    try:
        candidate = METHODS[method](task)
    except NonFiniteStepError:
        nothing = np.empty((0, 0))
        return Outcome(zero_shot(task), NOT_FINITE, 1.0, nothing, nothing)
    return _answer(bench, scene, candidate)


def _answer(bench: Bench, scene: Scene, candidate: Candidate) -> Outcome:
    """What a candidate says of both halves; its temperature and verdict are those of the adapted half."""
    both = np.concatenate([scene.adapt, scene.test])
    embeddings = (
        embed(bench.encoder(candidate), scene.pictures.pixels, both)
        if candidate.delta or candidate.tower
        else scene.pictures.embeddings[both]
    )
    logits = logits_of(embeddings, candidate.class_embeddings, _scale(bench))  # (N, C)
    window, test = np.split(logits, [len(scene.adapt)])
    before = _zero_shot_probabilities(bench, scene)
    verdict = _verdict(candidate, softmax(window), before, guard_limits(bench.settings.guard))
    if "not_finite" in verdict.reasons:
        return Outcome(candidate, NOT_FINITE, 1.0, window, test)
    if not candidate.images or candidate.labels_used:  # as published: T is inherited
        inherited = bench.start.manifest.calibration.temperature
        return Outcome(candidate, verdict, inherited, window, test)
    target = float(before.max(axis=-1).mean())
    temperature = softening_temperature(window, target)
    return Outcome(candidate, verdict, temperature, window, test)


def _verdict(
    candidate: Candidate, window: Float64, before: Float64, limits: GuardLimits
) -> Verdict:
    """As in a round: without labels, a window that tells too little is refused, whatever came of it."""
    verdict = judge(window, before, limits)
    if not candidate.images or candidate.labels_used or "not_finite" in verdict.reasons:
        return verdict
    return replace(verdict, reasons=(*judge_window(before, limits), *verdict.reasons))


def _zero_shot_probabilities(bench: Bench, scene: Scene) -> Float64:
    """(N, C) of the images adapted to."""
    embeddings = scene.pictures.embeddings[scene.adapt]
    return softmax(logits_of(embeddings, bench.start.head.class_embeddings, _scale(bench)))


def _scale(bench: Bench) -> float:
    return bench.start.manifest.logit_scale


def _answers(measured: Measured, labels: Indices, shown: Outcome) -> Answers:
    return Answers(
        label=tuple(labels.tolist()),
        prediction=tuple(measured.prediction.tolist()),
        confidence=tuple(measured.confidence.round(DIGITS).tolist()),
        ood_score=tuple(measured.ood_score.round(DIGITS).tolist()),
        logits=tuple(map(tuple, shown.test_logits.round(DIGITS).tolist())),
        window=tuple(map(tuple, shown.window_logits.round(DIGITS).tolist())),
    )
