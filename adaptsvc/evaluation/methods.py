"""The methods that are measured: each makes a candidate from the images of a task.

It knows nothing of test halves, figures or files. To add one: write a function from a `Task` to a
`Candidate` and name it in `UNLABELED` or `LABELED_METHODS`; table, plot, journal and `--method` follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from adaptsvc.adapt.labeled_objectives import LABELED
from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import Ready
from adaptsvc.config import Settings
from adaptsvc.evaluation.measure import UNKNOWN
from adaptsvc.learner import Candidate, Learner
from adaptsvc.tuner import Start, Tuner
from adaptsvc.versions.store import Version

ORACLE_UNKNOWN = 1e-3


@dataclass(frozen=True, slots=True)
class Task:
    """What a method is given.

    Attributes:
        settings: of the run; `learn` says how to step.
        ready: the loaded model, for methods that do more than the learner does.
        learner: what learns; its weights are whatever the cell before left.
        start: the zero-shot version, to load first.
        samples: the images to adapt to.
        labels: (N,) of the samples, index into the known classes or UNKNOWN; not for unlabeled methods. Where
            a method learns from labels, samples without one are not among these.
        seed: of every draw.
        between_steps: to be called before each step; what it raises ends the cell.
    """

    settings: Settings
    ready: Ready
    learner: Learner
    start: Version
    samples: tuple[Sample, ...]
    labels: npt.NDArray[np.int64]
    seed: int
    between_steps: Callable[[], None]


Method: TypeAlias = Callable[[Task], Candidate]


def zero_shot(task: Task) -> Candidate:
    """The model as it comes: no image was stepped on."""
    head = task.start.head
    return Candidate(
        method="zero-shot",
        delta={},
        tower={},
        context=head.context,
        class_embeddings=head.class_embeddings,
        losses={},
        images=0,
    )


def adapt(task: Task, objective: str) -> Candidate:
    """One round of an unlabeled objective from the zero-shot model, as the worker does it."""
    task.learner.load(task.start)
    learn = task.settings.learn.model_copy(update={"objective": objective})
    return task.learner.learn(task.samples, learn, task.seed, between_steps=task.between_steps)


def ueo_oracle(task: Task) -> Candidate:
    """UEO whose weights know which images are of known classes: the upper bound of the weighting.

    1 for a known class and 0.001 for another, as the authors' code has it (theirs are 1.001 and 0.001):
    only known images are made certain, only unknown ones are spread. Where every image is of a known
    class this is information maximisation.
    """
    weights = np.where(task.labels == UNKNOWN, ORACLE_UNKNOWN, 1.0)
    samples = tuple(
        dataclasses.replace(sample, weight=float(weight))
        for sample, weight in zip(task.samples, weights, strict=True)
    )
    return adapt(dataclasses.replace(task, samples=samples), "ueo")


def tune(task: Task, method: str) -> Candidate:
    """One round of a labeled objective from the zero-shot model, as the worker does it."""
    task.learner.load(task.start)
    head = task.start.head
    start = Start(
        text=head.class_embeddings,
        zero_shot=head.class_embeddings,
        context=head.context,
        logit_scale=task.start.manifest.logit_scale,
    )
    samples = [
        LabeledSample(s.image_id, s.pixels, int(label), s.source, s.zero_shot)
        for s, label in zip(task.samples, task.labels, strict=True)
    ]
    settings = task.settings.tune.model_copy(update={"method": method})
    return Tuner(task.learner.tower).tune(
        start, samples, settings, seed=task.seed, between_steps=task.between_steps
    )


UNLABELED: Mapping[str, Method] = {
    "zero-shot": zero_shot,
    "entropy-minimisation": partial(adapt, objective="entropy-minimisation"),
    "information-maximisation": partial(adapt, objective="information-maximisation"),
    "ueo": partial(adapt, objective="ueo"),
    "ueo-oracle": ueo_oracle,
}
LABELED_METHODS: Mapping[str, Method] = {name: partial(tune, method=name) for name in LABELED}
METHODS: Mapping[str, Method] = {**UNLABELED, **LABELED_METHODS}
