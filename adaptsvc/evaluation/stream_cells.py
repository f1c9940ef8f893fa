"""One cell: a service takes a stream in, and whatever serves answers the held-out images.

It knows nothing of other cells, journals or tables.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptsvc.errors import AdaptsvcError
from adaptsvc.evaluation.bench import Bench, Pictures, embed
from adaptsvc.evaluation.measure import UNKNOWN, Rule, measure
from adaptsvc.evaluation.split import Indices
from adaptsvc.evaluation.stream_journal import Figures, Moment, StreamResult
from adaptsvc.evaluation.stream_kinds import Sending
from adaptsvc.evaluation.stream_plan import StreamCell, settings_of
from adaptsvc.evaluation.stream_service import Service
from adaptsvc.rounds import Round
from adaptsvc.serving.predictor import logits_of
from adaptsvc.types import Float32
from adaptsvc.versions.store import Version


@dataclass(frozen=True, slots=True)
class Held:
    """The held-out half of a domain.

    Attributes:
        domain: its name.
        pictures: decoded once.
        labels: (N,) index into the known classes, or UNKNOWN.
    """

    domain: str
    pictures: Pictures
    labels: Indices

    @classmethod
    def of(cls, domain: str, pictures: Pictures, known: Sequence[str]) -> Held:
        """Name pictures by the known classes.

        Raises:
            AdaptsvcError: none is of a known class.
        """
        position = {name: index for index, name in enumerate(known)}
        labels = np.array([position.get(name, UNKNOWN) for name in pictures.names], np.int64)
        if (labels == UNKNOWN).all():
            raise AdaptsvcError(
                f"no image of {domain} to test on is of a known class; expected at least 1: add images or "
                "leave it out with --domains"
            )
        return cls(domain, pictures, labels)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a cell works with.

    Attributes:
        parts: what is sent, part by part.
        held: what is tested on, each domain once.
        stop: ends the round at hand.
        look: called with the images sent so far after each turn; what it raises ends the cell.
    """

    bench: Bench
    parts: tuple[tuple[Sending, ...], ...]
    held: tuple[Held, ...]
    stop: threading.Event
    look: Callable[[int], None]


class _Meter:
    """Figures of versions, each measured once."""

    def __init__(self, service: Service, held: Sequence[Held]) -> None:
        self._service = service
        self._held = held
        self._known: dict[int, Figures] = {}

    def figures(self) -> Figures:
        """Of the version that serves."""
        version = self._service.serving()
        if version.manifest.id not in self._known:
            self._known[version.manifest.id] = self._measure(version)
        return self._known[version.manifest.id]

    def _measure(self, version: Version) -> Figures:
        manifest = version.manifest
        rule = Rule(manifest.logit_scale, manifest.calibration.temperature, manifest.ood.score)
        encoder = None if manifest.parent is None else self._service.encoder(version)

        def embeddings(pictures: Pictures) -> Float32:
            everything = np.arange(len(pictures.names))
            if encoder is None:
                return pictures.embeddings
            return embed(encoder, pictures.pixels, everything)

        return {
            held.domain: measure(
                logits_of(
                    embeddings(held.pictures), version.head.class_embeddings, rule.logit_scale
                ),
                held.labels,
                rule,
            ).figures
            for held in self._held
        }


def run_stream_cell(trial: Trial, cell: StreamCell) -> StreamResult:
    """Run a service on a stream from zero-shot on, in a home that is gone afterwards.

    Args:
        trial: model, stream, held-out images.
        cell: guard, pull and seed.
    """
    begun = time.monotonic()
    settings = trial.bench.settings
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cell-", dir=settings.home) as home:
        service = Service(trial.bench, settings_of(cell, settings, Path(home)), trial.stop)
        meter = _Meter(service, trial.held)
        zero_shot = meter.figures()
        moments, after_parts = _follow(trial, service, meter)
    return StreamResult(
        cell=cell,
        zero_shot=zero_shot,
        moments=tuple(moments),
        after_parts=tuple(after_parts),
        sent=tuple(np.cumsum([len(part) for part in trial.parts]).tolist()),
        returns=service.returns,
        dead_letters=service.dead_letters,
        skipped_images=sum(len(held.pictures.skipped) for held in trial.held),
        seconds=round(time.monotonic() - begun, 3),
    )


def _follow(trial: Trial, service: Service, meter: _Meter) -> tuple[list[Moment], list[Figures]]:
    """What served after each round, and after each part of the stream."""
    moments: list[Moment] = []
    after_parts: list[Figures] = []
    before = 0
    for number, part in enumerate(trial.parts):
        for sent, done in service.receive(part):
            trial.look(before + sent)
            if done is not None:
                version = service.serving().manifest.id
                moments.append(_moment(done, version, before + sent, number, meter.figures()))
        before += len(part)
        after_parts.append(meter.figures())
    return moments, after_parts


def _moment(done: Round, version: int, sent: int, part: int, figures: Figures) -> Moment:
    return Moment(
        sent=sent,
        part=part,
        method=done.method,
        outcome=done.outcome,
        reasons=done.reasons,
        action=done.action,
        version=version,
        figures=figures,
    )
