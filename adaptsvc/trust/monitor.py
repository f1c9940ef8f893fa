"""The six signals of one stream: what is recent, what the reference is, and what survives a restart.

It knows nothing of models or versions, and has no clock. Memory is bounded by `Limits`: the looks of a
reference and of as many recent images, and the probabilities of the most recent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from adaptsvc.trust.drift import (
    LEAST_RECENT,
    LEAST_REFERENCE,
    Arrays,
    Comparison,
    Limits,
    Looks,
    Signal,
    class_prior,
    compare_decoding,
    counts,
    decode_signal,
    signals,
)
from adaptsvc.trust.sequential import ChangeDetector, State
from adaptsvc.types import Float64

DECODE = "decode"


class Monitor:
    """Watches one stream.

    Args:
        limits: how.

    Example:
        >>> monitor = Monitor(Limits(classes=2))
        >>> monitor.reference is None, monitor.alarms
        (True, ())
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.newest: Looks | None = None
        self.probabilities = np.zeros((0, limits.classes), np.float32)  # of the most recent
        self.flags = np.zeros(0, np.bool_)  # of the newest messages, whether each was no image
        self.images = 0
        self.reference: Looks | None = None
        self.built = 0
        self._reference_flags = (0, 0)
        self._signals: dict[str, Signal] = {}
        self._decode: ChangeDetector | None = None

    def update(self, looks: Looks, probabilities: Float64) -> None:
        """Take in images in their order, with their probabilities (N, C)."""
        limits = self._limits
        newest = looks if self.newest is None else self.newest.then(looks)
        self.newest = newest[-limits.reference_images :]
        kept = np.concatenate([self.probabilities, probabilities.astype(np.float32)])
        self.probabilities = kept[-limits.recent_images :]
        self._flag(np.zeros(len(looks), np.bool_))
        if self.reference is not None:
            self.images += len(looks)
            for signal in self._signals.values():
                signal.update(looks)

    def failed(self, messages: int) -> None:
        """So many messages were no images."""
        self._flag(np.ones(messages, np.bool_))

    @property
    def is_due(self) -> bool:
        """Whether there is no reference, and enough images for a first one."""
        enough = self.newest is not None and len(self.newest) >= self._limits.reference_images
        return self.reference is None and enough

    def rebuild(self) -> bool:
        """Make the newest images the reference, and begin anew; False where they are too few for one."""
        if self.newest is None or len(self.newest) < LEAST_REFERENCE:
            return False
        self.built += 1
        self.images = 0
        self._reference_flags = (int(self.flags.sum()), len(self.flags))
        self._begin(self.newest)
        return True

    @property
    def recent(self) -> Looks | None:
        """The most recent images since the reference; None while they are too few."""
        count = min(self.images, self._limits.recent_images)
        return None if self.newest is None or count < LEAST_RECENT else self.newest[-count:]

    @property
    def alarms(self) -> tuple[str, ...]:
        """The signals that are alarms."""
        return tuple(name for name, detector in self.detectors.items() if detector.alarm)

    @property
    def detectors(self) -> Mapping[str, ChangeDetector]:
        """What alarms, by the name of its signal; empty without a reference."""
        found = {name: signal.detector for name, signal in self._signals.items()}
        return found if self._decode is None else {**found, DECODE: self._decode}

    def compare(self) -> dict[str, Comparison]:
        """The recent images against the reference, by signal; empty while they are too few."""
        if self.reference is None or (recent := self.recent) is None:
            return {}
        found = {name: s.compare(self.reference, recent) for name, s in self._signals.items()}
        flags = self.flags[-self._limits.recent_images :]
        found[DECODE] = compare_decoding(self._reference_flags, (int(flags.sum()), len(flags)))
        return found

    def class_shares(self) -> tuple[Float64, Float64, Float64]:
        """Of each class (C,): its share of the reference, of the recent images, and its prior there."""
        if self.reference is None or (recent := self.recent) is None:
            raise ValueError("got too few images; ask when `recent` is not None")
        before, now = (counts(looks, self._limits.classes) for looks in (self.reference, recent))
        prior = class_prior(self.probabilities[-len(recent) :].astype(np.float64))
        return before / before.sum(), now / now.sum(), prior

    def arrays(self) -> Arrays:
        """All that has to survive a restart."""
        found: Arrays = {"probabilities": self.probabilities, "flags": self.flags}
        found["counted"] = np.array([self.images, self.built, *self._reference_flags])
        for name, looks in (("newest", self.newest), ("reference", self.reference)):
            if looks is not None:
                found |= {f"{name}.{f.name}": getattr(looks, f.name) for f in _fields(looks)}
        for name, detector in self.detectors.items():
            state = detector.state
            found |= {f"{name}.counts": state.counts.copy(), f"{name}.evidence": state.evidence}
            found[f"{name}.state"] = np.array([state.images, state.alarm])
        return found

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` gave, under the same limits.

        Raises:
            KeyError: something is missing.
            ValueError: shapes do not fit.
        """
        self.probabilities, self.flags = arrays["probabilities"], arrays["flags"]
        self.images, self.built, *flags = (int(value) for value in arrays["counted"])
        self._reference_flags = (flags[0], flags[1])
        if "newest.chosen" in arrays:
            self.newest = _looks(arrays, "newest")
        if "reference.chosen" not in arrays:
            return
        self._begin(_looks(arrays, "reference"))
        for name, detector in self.detectors.items():
            images, alarm = arrays[f"{name}.state"]
            detector.state = _fitting(
                detector.state,
                State(
                    detector.state.edges,
                    arrays[f"{name}.counts"],
                    arrays[f"{name}.evidence"],
                    int(images),
                    bool(alarm),
                ),
            )

    def _begin(self, reference: Looks) -> None:
        self.reference = reference
        self._signals = signals(reference, self._limits, self.built)
        self._decode = decode_signal(*self._reference_flags, self._limits, self.built)

    def _flag(self, flags: npt.NDArray[np.bool_]) -> None:
        self.flags = np.concatenate([self.flags, flags])[-self._limits.reference_images :]
        if self._decode is not None:
            for flag in flags:
                self._decode.update(np.array([float(flag)]))


def _fields(looks: Looks) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(looks)


def _looks(arrays: Arrays, name: str) -> Looks:
    return Looks(*(arrays[f"{name}.{field.name}"] for field in dataclasses.fields(Looks)))


def _fitting(before: State, saved: State) -> State:
    for name in ("counts", "evidence"):
        wanted, found = getattr(before, name).shape, getattr(saved, name).shape
        if wanted != found:
            raise ValueError(f"got {name} of the shape {found}; expected {wanted}")
    return saved
